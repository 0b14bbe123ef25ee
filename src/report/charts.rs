//! Charts as inline SVG.
//!
//! They are drawn in a few colours that stand for roles ([`Ink`]); the page's style sheet says what each looks like on a light and on a
//! dark screen.

mod bars;

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

pub use bars::{Bar, Bars, bars};

use crate::error::{Error, Result};

/// Width of a chart, in units that are about a pixel each: narrow, so that text on a phone is hardly smaller than on a desk.
const WIDTH: u32 = 420;
/// Size of text, in the same units.
const TEXT: f64 = 14.0;
/// Lines that one chart tells apart.
pub const MAX_LINES: usize = 8;

/// A colour by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Text that matters.
    Text,
    /// Axes, and text beside them.
    Soft,
    /// Lines that help the eye.
    Rule,
    /// Where guessing is.
    Guess,
    /// The shade of a heat map.
    Heat,
    /// A line or mark of a series, from 0 to [`MAX_LINES`] − 1.
    Series(usize),
}

/// The colours of the style sheet: its variables' names, and what charts are drawn in.
pub fn inks() -> Vec<(String, String)> {
    let series = (0..MAX_LINES).map(Ink::Series);
    let fixed = [Ink::Text, Ink::Soft, Ink::Rule, Ink::Guess, Ink::Heat];
    fixed.into_iter().chain(series).map(|ink| (ink.name(), ink.hex())).collect()
}

impl Ink {
    /// The variable of the style sheet.
    pub fn name(self) -> String {
        match self {
            Self::Text => "ink".into(),
            Self::Soft => "soft".into(),
            Self::Rule => "rule".into(),
            Self::Guess => "guess".into(),
            Self::Heat => "heat".into(),
            Self::Series(i) => format!("s{}", i + 1),
        }
    }

    /// The colour that stands for it, as the drawing has it.
    pub fn hex(self) -> String {
        format!("#0000{:02X}", self.color().2)
    }

    fn color(self) -> RGBColor {
        RGBColor(
            0,
            0,
            match self {
                Self::Text => 1,
                Self::Soft => 2,
                Self::Rule => 3,
                Self::Guess => 4,
                Self::Heat => 5,
                Self::Series(i) => 0x11 + (i % MAX_LINES) as u8,
            },
        )
    }
}

/// A drawing for the page.
#[derive(Clone, Debug, Serialize)]
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub label: String,
    /// Its width, in units.
    pub width: u32,
    /// Its height, in units.
    pub height: u32,
    /// What is inside the `svg` element; text is escaped.
    pub body: String,
}

/// Where a chart is drawn.
type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A chart with a row below the other.
type Rows<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<Axis, Axis>>;
/// What goes wrong in drawing.
type Failure = Box<dyn std::error::Error>;

impl Chart {
    fn draw(
        label: String,
        (width, height): (u32, u32),
        paint: impl FnOnce(&Canvas<'_>) -> std::result::Result<(), Failure>,
    ) -> Result<Self> {
        let mut svg = String::new();
        let canvas = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        let painted = paint(&canvas).and_then(|()| Ok(canvas.present()?));
        painted.map_err(|e| Error::invalid(format!("a chart cannot be drawn: {e}")))?;
        drop(canvas);
        // The page writes the outer element itself: it must scale with the page and say what it shows.
        let body = svg.split_once('\n').map_or("", |(_, body)| body);
        let body = body.trim_end().trim_end_matches("</svg>").to_string();
        Ok(Self { label, width, height, body })
    }
}

/// Text of a chart, anchored at a point.
fn text(ink: Ink, h_pos: HPos, v_pos: VPos) -> TextStyle<'static> {
    // The backend divides sizes by this.
    ("sans-serif", TEXT * 1.24)
        .with_color(ink.color())
        .into_text_style(&(WIDTH, WIDTH))
        .pos(Pos::new(h_pos, v_pos))
}

/// A label of at most `most` characters: start and end, since names of one team often differ in their last character only.
fn short(name: &str, most: usize) -> String {
    let all: Vec<char> = name.chars().collect();
    if all.len() <= most {
        return name.to_string();
    }
    let (head, tail) = (most / 2, most.div_ceil(2) - 1);
    all[..head].iter().chain(&['…']).chain(&all[all.len() - tail..]).collect()
}

/// A linear axis with marks at chosen places: those that plotters would choose are not round on a logarithmic scale.
struct Axis {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Room for `n` rows, the lowest from 0 on, above an axis from 0 to `end`.
fn rows_on_axis<'a, 'b>(
    canvas: &'a Canvas<'b>,
    end: f64,
    n: f64,
) -> std::result::Result<Rows<'a, 'b>, Failure> {
    let marks = ticks(0.0, end, 6);
    let mut chart = ChartBuilder::on(canvas)
        .margin_left(8)
        .margin_right(16)
        .x_label_area_size(28)
        .build_cartesian_2d(Axis { range: 0.0..end, marks }, Axis { range: 0.0..n, marks: Vec::new() })?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(Ink::Rule.color())
        .axis_style(Ink::Soft.color())
        .x_label_style(text(Ink::Soft, HPos::Center, VPos::Top))
        .x_label_formatter(&|x| plain(*x))
        .draw()?;
    Ok(chart)
}

/// One row of a chart of results.
pub struct Whisker {
    /// What was measured.
    pub name: String,
    /// Its score, where it is finite.
    pub value: Option<f64>,
    /// Its 95 % interval.
    pub interval: Option<[f64; 2]>,
    /// The score as text.
    pub said: String,
    /// The colour of its mark.
    pub ink: Ink,
}

/// Scores with their intervals, one below the other, on the axis from 0 to `end`; `guessing` is a dashed line.
pub fn whiskers(label: String, rows: &[Whisker], end: f64, guessing: Option<f64>) -> Result<Chart> {
    const ROW: u32 = 46;
    let n = rows.len() as f64;
    Chart::draw(label, (WIDTH, ROW * rows.len() as u32 + 30), |canvas| {
        let mut chart = rows_on_axis(canvas, end, n)?;
        for (row, top) in rows.iter().zip((1..=rows.len()).rev()) {
            let at = |below: f64| top as f64 - below;
            let ends = [
                (0.0, HPos::Left, Ink::Text, short(&row.name, 28)),
                (end, HPos::Right, Ink::Soft, row.said.clone()),
            ];
            for (x, side, ink, said) in ends {
                chart.draw_series([Text::new(said, (x, at(0.28)), text(ink, side, VPos::Center))])?;
            }
            // Beside the mark only, so that no name is struck through.
            let guess =
                |x: f64| PathElement::new([(x, at(0.48)), (x, at(0.96))], Ink::Guess.color().stroke_width(2));
            chart.draw_series(guessing.filter(|g| (0.0..=end).contains(g)).map(guess))?;
            let Some(value) = row.value else { continue };
            let [low, high] = row.interval.unwrap_or([value, value]);
            let style = row.ink.color().filled().stroke_width(2);
            chart.draw_series([ErrorBar::new_horizontal(at(0.64), low, value, high, style, 10)])?;
        }
        Ok(())
    })
}

/// A curve.
pub struct Line<'a> {
    /// Updates and values.
    pub points: &'a [(f64, f64)],
    /// Its colour.
    pub ink: Ink,
    /// Whether each point is marked.
    pub marked: bool,
}

/// Curves over updates; `starts` are marked by vertical lines. On a logarithmic axis, values that are not positive are left out.
pub fn lines(label: String, series: &[Line<'_>], starts: &[f64], logarithmic: bool) -> Result<Chart> {
    let scaled = |y: f64| if logarithmic { y.log10() } else { y };
    let shown = |line: &Line<'_>| -> Vec<(f64, f64)> {
        line.points.iter().filter(|p| !logarithmic || p.1 > 0.0).map(|&(x, y)| (x, scaled(y))).collect()
    };
    let all: Vec<(f64, f64)> = series.iter().flat_map(shown).collect();
    let (from, to) = range(all.iter().map(|p| p.0), 0.0);
    let (low, high) = range(all.iter().map(|p| p.1), 0.06);
    let levels = if logarithmic { powers(low, high) } else { ticks(low, high, 6) };
    let updates = ticks(from, to, 6).into_iter().filter(|x| x.fract() == 0.0).collect::<Vec<_>>();
    Chart::draw(label, (WIDTH, 260), |canvas| {
        let mut chart = ChartBuilder::on(canvas)
            .margin_top(8)
            .margin_right(16)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(
                Axis { range: from..to, marks: updates },
                Axis { range: low..high, marks: levels },
            )?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(Ink::Rule.color())
            .axis_style(Ink::Soft.color())
            .label_style(text(Ink::Soft, HPos::Center, VPos::Top))
            .x_label_formatter(&|x| plain(*x))
            .y_label_formatter(&|y| plain(if logarithmic { 10_f64.powf(*y) } else { *y }))
            .draw()?;
        let vertical = |&x: &f64| PathElement::new([(x, low), (x, high)], Ink::Guess.color());
        chart.draw_series(starts.iter().filter(|&&x| from < x && x < to).map(vertical))?;
        for line in series {
            let style = line.ink.color().filled().stroke_width(2);
            let size = if line.marked { 4 } else { 0 };
            chart.draw_series(LineSeries::new(shown(line), style).point_size(size))?;
        }
        Ok(())
    })
}

/// Shares by row and column, printed in shaded cells; the strongest shade is `full`. A cell without a number stays empty.
pub fn heat(
    label: String,
    rows: &[String],
    columns: &[String],
    cells: &[Vec<Option<f64>>],
    full: f64,
) -> Result<Chart> {
    const ROW: u32 = 24;
    const LEFT: u32 = 136;
    let cell = ((WIDTH - LEFT) / columns.len().max(1) as u32).clamp(58, 110);
    // As wide as other charts, so that its text is of the same size.
    let size = ((LEFT + cell * columns.len() as u32).max(WIDTH), ROW * (rows.len() as u32 + 1));
    Chart::draw(label, size, |canvas| {
        let middle = |j: usize| (LEFT + cell * j as u32 + cell / 2) as i32;
        // A character is about 0.6 of the text's size wide.
        let fits = |width: u32| (f64::from(width) / (0.6 * TEXT)) as usize;
        for (j, name) in columns.iter().enumerate() {
            let style = text(Ink::Soft, HPos::Center, VPos::Center);
            canvas.draw(&Text::new(short(name, fits(cell)), (middle(j), ROW as i32 / 2), style))?;
        }
        for (i, (name, row)) in rows.iter().zip(cells).enumerate() {
            let top = (ROW * (i as u32 + 1)) as i32;
            let y = top + ROW as i32 / 2;
            let style = text(Ink::Soft, HPos::Right, VPos::Center);
            canvas.draw(&Text::new(short(name, fits(LEFT)), (LEFT as i32 - 8, y), style))?;
            for (j, share) in row.iter().enumerate().take(columns.len()) {
                let Some(share) = share.filter(|x| x.is_finite()) else { continue };
                let left = (LEFT + cell * j as u32) as i32;
                let corners = [(left + 1, top + 1), (left + cell as i32 - 1, top + ROW as i32 - 1)];
                let shade = Ink::Heat.color().mix((share / full).clamp(0.0, 1.0));
                canvas.draw(&Rectangle::new(corners, shade.filled()))?;
                let style = text(Ink::Text, HPos::Center, VPos::Center);
                canvas.draw(&Text::new(percent(share), (middle(j), y), style))?;
            }
        }
        Ok(())
    })
}

/// A share in percent, without the sign.
pub fn percent(share: f64) -> String {
    let digits = if share < 0.0995 { 1 } else { 0 };
    format!("{:.digits$}", 100.0 * share)
}

/// The least and the largest value, wider by a share of their distance and never empty.
fn range(values: impl Iterator<Item = f64>, wider: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    match () {
        _ if low > high => (0.0, 1.0),
        // One value gets an axis around it that is wide enough for its digits.
        _ if high - low <= 1e-9 * high.abs() => {
            let half = if high == 0.0 { 1.0 } else { 0.5 * high.abs() };
            (low - half, high + half)
        }
        _ => (low - wider * (high - low), high + wider * (high - low)),
    }
}

/// About `n` round numbers from `low` to `high`.
fn ticks(low: f64, high: f64, n: usize) -> Vec<f64> {
    let raw = (high - low) / n as f64;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    (first..first + 2 * n as i64).map(|i| i as f64 * step).take_while(|x| *x <= high + 1e-9 * step).collect()
}

/// Logarithms of round numbers, for an axis between the logarithms `low` and `high`.
fn powers(low: f64, high: f64) -> Vec<f64> {
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    let multiples: &[f64] = if high - low > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let each = ((high - low) / 6.0).ceil().max(1.0) as usize;
    let all =
        (first..=last).step_by(each).flat_map(|k| multiples.iter().map(move |m| f64::from(k) + m.log10()));
    let all: Vec<f64> = all.filter(|x| (low..=high).contains(x)).collect();
    // Between two neighbours of 1, 2, 5 the ends have to do.
    if all.len() < 2 { ticks(low, high, 4) } else { all }
}

/// A number without digits that say nothing.
pub fn plain(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_string(),
        a if !(1e-3..1e5).contains(&a) => format!("{x:.1e}").replace(".0e", "e").replace('-', "−"),
        a => {
            let digits = (3 - a.log10().floor() as i32).clamp(0, 5) as usize;
            let text = format!("{x:.digits$}");
            let text =
                if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            text.replace('-', "−")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_numbers() {
        assert_eq!(ticks(0.0, 100.0, 6), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(1.0, 200.0, 6).len(), 4);
        assert_eq!(powers(-3.2, 1.1), [-3.0, -2.0, -1.0, 0.0, 1.0]);
        assert!(powers(0.32, 0.65).len() >= 2);
        assert_eq!(range([3.0].into_iter(), 0.1), (1.5, 4.5));
        assert_eq!(range([].into_iter(), 0.1), (0.0, 1.0));
        for (x, want) in
            [(0.0, "0"), (0.25, "0.25"), (1500.0, "1500"), (2e-5, "2e−5"), (-2.5, "−2.5"), (3.2e7, "3.2e7")]
        {
            assert_eq!(plain(x), want);
        }
        assert_eq!((short("refiner", 7), short("expert_number_12", 7)), ("refiner".into(), "exp…_12".into()));
        assert_eq!([0.0, 0.034, 0.31, 1.0].map(percent), ["0.0", "3.4", "31", "100"]);
    }

    #[test]
    fn text_from_files_stays_text() {
        let hostile = "<script>\"&'".to_string();
        let row = Whisker {
            name: hostile.clone(),
            value: Some(0.5),
            interval: None,
            said: hostile.clone(),
            ink: Ink::Series(0),
        };
        let charts = [
            whiskers("w".into(), &[row], 1.0, Some(0.25)).unwrap(),
            heat(
                "h".into(),
                std::slice::from_ref(&hostile),
                std::slice::from_ref(&hostile),
                &[vec![Some(1.0)]],
                1.0,
            )
            .unwrap(),
        ];
        for chart in charts {
            assert!(
                !chart.body.contains("<script") && chart.body.contains("&lt;script&gt;&quot;"),
                "{}",
                chart.body
            );
        }
    }

    #[test]
    fn curves_of_any_numbers_are_drawn() {
        for points in
            [vec![], vec![(1.0, 2.0)], vec![(1.0, 0.0), (2.0, -1.0)], vec![(1.0, 1e-30), (9.0, 1e30)]]
        {
            for logarithmic in [false, true] {
                let line = Line { points: &points, ink: Ink::Series(0), marked: true };
                let chart = lines("l".into(), &[line], &[1.5], logarithmic).unwrap();
                assert!(!chart.body.contains("NaN"), "{}", chart.body);
            }
        }
    }
}
