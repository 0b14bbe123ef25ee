//! Groups of bars, and a chart as a file of its own.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Chart, Ink, WIDTH, rows_on_axis, short, text};
use crate::error::Result;

/// One bar.
pub struct Bar {
    /// Its length.
    pub value: f64,
    /// What is written on it.
    pub said: String,
    /// Its colour.
    pub ink: Ink,
}

/// Bars that belong together.
pub struct Bars {
    /// What they have in common.
    pub name: String,
    /// One below the other.
    pub bars: Vec<Bar>,
}

/// Groups of bars from 0 on, one below the other, with a line at 1.
pub fn bars(label: String, groups: &[Bars]) -> Result<Chart> {
    const ROW: u32 = 22;
    // A name, its bars, a gap.
    let rows: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let longest = groups.iter().flat_map(|g| &g.bars).map(|bar| bar.value).fold(1.0, f64::max);
    let (n, end) = (rows.max(1) as f64, 1.05 * longest);
    Chart::draw(label, (WIDTH, ROW * rows.max(1) as u32 + 36), |canvas| {
        let mut chart = rows_on_axis(canvas, end, n)?;
        let mut top = n;
        for group in groups {
            let name = short(&group.name, 48);
            chart.draw_series([Text::new(
                name,
                (0.0, top - 0.6),
                text(Ink::Text, HPos::Left, VPos::Center),
            )])?;
            for bar in &group.bars {
                top -= 1.0;
                let corners = [(0.0, top - 0.92), (bar.value, top - 0.08)];
                // Light enough for the text on it.
                let style = bar.ink.color().mix(0.45).filled();
                chart.draw_series([Rectangle::new(corners, style)])?;
                let said = text(Ink::Text, HPos::Left, VPos::Center);
                chart.draw_series([Text::new(short(&bar.said, 48), (0.01 * end, top - 0.5), said)])?;
            }
            top -= 2.0;
        }
        let one = [(1.0, 0.0), (1.0, n)];
        chart.draw_series([PathElement::new(one, Ink::Guess.color().stroke_width(1))])?;
        Ok(())
    })
}

/// What inks look like on paper.
const PAPER: [(Ink, &str); 12] = [
    (Ink::Text, "#1d1f21"),
    (Ink::Soft, "#585d63"),
    (Ink::Rule, "#dedbd2"),
    (Ink::Guess, "#585d63"),
    (Ink::Series(0), "#0b62a8"),
    (Ink::Series(1), "#b8560a"),
    (Ink::Series(2), "#0a7d5c"),
    (Ink::Series(3), "#8f3f86"),
    (Ink::Series(4), "#6a6f76"),
    (Ink::Series(5), "#1f86b3"),
    (Ink::Series(6), "#857000"),
    (Ink::Series(7), "#b03a48"),
];

impl Chart {
    /// The drawing as a file of its own, on paper.
    pub fn standalone(&self) -> String {
        let Self { label, width, height, body } = self;
        let label = label.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        let ink = |(ink, colour): (Ink, &str)| {
            let name = ink.hex();
            format!("[fill=\"{name}\"]{{fill:{colour}}}[stroke=\"{name}\"]{{stroke:{colour}}}")
        };
        let inks: String = PAPER.into_iter().map(ink).collect();
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n\
             <title>{label}</title>\n<style>{inks}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fcfbf8\"/>\n{body}</svg>\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_of_bars_is_a_file_of_its_own_whatever_it_says() {
        let bar = |value| Bar { value, said: "<a> & \"b\"".into(), ink: Ink::Series(1) };
        let groups = [
            Bars { name: "prefill <1>".into(), bars: vec![bar(1.0), bar(2.5)] },
            Bars { name: "decoding".into(), bars: vec![bar(0.01)] },
        ];
        for groups in [&groups[..], &[]] {
            let svg = bars("a & <b>".into(), groups).unwrap().standalone();
            let read = roxmltree::Document::parse(&svg).unwrap();
            let title = read.descendants().find(|n| n.has_tag_name("title")).unwrap();
            assert_eq!(title.text(), Some("a & <b>"));
            let bars: usize = groups.iter().map(|g| g.bars.len()).sum();
            let said = read.descendants().filter(|n| n.text().is_some_and(|t| t.trim() == "<a> & \"b\""));
            assert_eq!(said.filter(|n| n.is_element()).count(), bars);
        }
    }
}
