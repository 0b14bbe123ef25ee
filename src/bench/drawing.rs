//! A record as a chart.

use super::column::Column;
use super::record::BenchRecord;
use super::table::short;
use crate::error::Result;
use crate::report::charts::{Bar, Bars, Ink, MAX_LINES, bars};

impl BenchRecord {
    /// Speeds as multiples of the first column's, a bar for each work and column, as an SVG file.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn svg(&self) -> Result<String> {
        let columns: Vec<&Column> = self.shown().collect();
        let first = columns.first();
        let groups: Vec<Bars> = self
            .works()
            .into_iter()
            .filter_map(|work| {
                let base = first?.find(work)?;
                let bar = |(i, column): (usize, &&Column)| {
                    let own = column.find(work)?;
                    let speed = own.speed_to(base);
                    let said =
                        format!("{} {}× ({} {})", column.name(), short(speed), short(own.figure), own.unit);
                    Some(Bar { value: speed, said, ink: Ink::Series(i % MAX_LINES) })
                };
                let bars: Vec<Bar> = columns.iter().enumerate().filter_map(bar).collect();
                Some(Bars { name: work.title(), bars })
            })
            .collect();
        let base = first.map_or_else(String::new, |column| column.name());
        let label = format!("{}: speed as a multiple of {base}", self.model.name);
        Ok(bars(label, &groups)?.standalone())
    }
}
