//! A pair of axes and what is drawn between them.

use super::axis::{Axis, Tick};
use super::canvas::{Anchor, Canvas, Frame, Point, Stroke};
use super::color::Color;
use super::font::{TEXT, Weight, fitted, width_of, wrapped};

/// Room at the left of a panel for the labels of ticks and the axis.
pub(crate) const LEFT: f64 = 62.0;
/// Room at the right, for half of the last tick's label.
pub(crate) const RIGHT: f64 = 12.0;
/// Room below for the labels of ticks and the axis.
const BELOW: f64 = 42.0;
/// Room below for the labels of ticks alone.
const BELOW_TICKS: f64 = 24.0;
/// The height of a row of text above the axes.
const ROW: f64 = 17.0;
/// The length of a tick.
const TICK: f64 = 5.0;
/// The room between an axis and the labels of its ticks, ticks included.
const GAP: f64 = 8.0;
/// About the width of a label of an x axis.
const X_LABEL: f64 = 40.0;
/// The room between two labels of an x axis.
const BETWEEN: f64 = 6.0;

/// A line with a label: an effective depth above the axes, or a threshold between them.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) at: f64,
    pub(crate) interval: Option<[f64; 2]>,
    pub(crate) label: String,
    pub(crate) color: Color,
}

/// An unbroken curve.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) points: Vec<Point>,
    pub(crate) color: Color,
    pub(crate) stroke: Stroke,
    pub(crate) dots: Dots,
}

/// Dots on the points of a curve, for values with nothing between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dots {
    None,
    Filled,
    Hollow,
}

/// A bar from zero, or from the low end of a logarithmic axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bar {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) value: f64,
    pub(crate) color: Color,
    /// Draws the end of the bar only, as a line.
    pub(crate) stroke: bool,
}

/// Intervals over x.
#[derive(Debug, Clone)]
pub(crate) struct Band {
    pub(crate) points: Vec<(f64, [f64; 2])>,
    pub(crate) color: Color,
    /// Draws a whisker at each point instead of a surface.
    pub(crate) whiskers: bool,
}

/// A pair of axes with what is drawn between them.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) bars: Vec<Bar>,
    pub(crate) bands: Vec<Band>,
    pub(crate) curves: Vec<Curve>,
    /// Vertical lines.
    pub(crate) marks: Vec<Mark>,
    /// Horizontal lines.
    pub(crate) levels: Vec<Mark>,
    /// Texts for readers who point between two values of x.
    pub(crate) hovers: Vec<([f64; 2], String)>,
    /// Printed in the middle of a panel without values.
    pub(crate) empty: String,
}

impl Panel {
    pub(crate) fn new(title: impl Into<String>, x: Axis, y: Axis) -> Self {
        Self {
            title: title.into(),
            x,
            y,
            bars: Vec::new(),
            bands: Vec::new(),
            curves: Vec::new(),
            marks: Vec::new(),
            levels: Vec::new(),
            hovers: Vec::new(),
            empty: String::new(),
        }
    }

    /// The room above the axes: the title, and rows of labels of marks.
    fn above(&self, rows: usize) -> f64 {
        let title = if self.title.is_empty() { 0.0 } else { ROW };
        8.0 + title + ROW * rows as f64
    }

    fn below(&self) -> f64 {
        if self.x.label.is_empty() { BELOW_TICKS } else { BELOW }
    }

    /// The height of the whole panel whose axes enclose `height`.
    pub(crate) fn outer_height(&self, rows: usize, height: f64) -> f64 {
        self.above(rows) + height + self.below()
    }

    /// The room that the labels of the y axis need at the left.
    pub(crate) fn left(&self, height: f64) -> f64 {
        let ticks = self.y.ticks(height, ROW);
        let widest = ticks.iter().map(|tick| width_of(&tick.1, TEXT, Weight::Regular)).fold(0.0, f64::max);
        let label = if self.y.label.is_empty() { 0.0 } else { ROW + 5.0 };
        (label + widest + GAP).max(LEFT)
    }

    /// Rows of labels above axes of this width.
    pub(crate) fn label_rows(&self, width: f64) -> usize {
        let inner = Frame { x: 0.0, y: 0.0, width, height: 0.0 };
        self.rows_of_labels(inner).into_iter().max().map_or(0, |row| row + 1)
    }

    /// Draws the panel with its top left corner at `(x, y)`, `inner` wide and high between the axes and with room for
    /// `rows` rows of labels of marks. Returns the frame between the axes.
    pub(crate) fn draw(
        &self,
        canvas: &mut Canvas,
        (x, y): Point,
        left: f64,
        (width, height): (f64, f64),
        rows: usize,
    ) -> Frame {
        let inner = Frame { x: x + left, y: y + self.above(rows), width, height };
        let (x_ticks, y_ticks) = (self.x.ticks(width, X_LABEL), self.y.ticks(height, ROW));
        self.draw_grid(canvas, inner, &x_ticks, &y_ticks);
        self.draw_x_axis(canvas, inner, &x_ticks);
        self.draw_y_axis(canvas, inner, x, &y_ticks);
        canvas.reach(inner.bottom() + self.below());
        if !self.title.is_empty() {
            let title = fitted(&self.title, inner.width, TEXT, Weight::Bold);
            canvas.bold(inner.x, y + ROW, Anchor::Start, Color::Text, &title);
        }
        self.draw_intervals(canvas, inner);
        self.draw_bars(canvas, inner);
        self.draw_bands(canvas, inner);
        self.draw_curves(canvas, inner);
        self.draw_marks(canvas, inner, rows);
        self.draw_levels(canvas, inner);
        self.draw_empty(canvas, inner);
        for ([from, to], text) in &self.hovers {
            let (left, right) = (self.x_at(inner, *from).max(inner.x), self.x_at(inner, *to));
            let width = (right.min(inner.right()) - left).max(0.0);
            canvas.hover(Frame { x: left, width, ..inner }, text.clone());
        }
        inner
    }

    fn x_at(&self, inner: Frame, value: f64) -> f64 {
        inner.x + inner.width * self.x.share(value)
    }

    fn y_at(&self, inner: Frame, value: f64) -> f64 {
        inner.bottom() - inner.height * self.y.share(value)
    }

    fn at(&self, inner: Frame, (x, y): Point) -> Point {
        (self.x_at(inner, x), self.y_at(inner, y))
    }

    /// Draws the lines of the grid, which the axes cover.
    fn draw_grid(&self, canvas: &mut Canvas, inner: Frame, x_ticks: &[Tick], y_ticks: &[Tick]) {
        for (value, _) in x_ticks {
            let x = self.x_at(inner, *value);
            canvas.line((x, inner.y), (x, inner.bottom()), Color::Line, 1.0, Stroke::Solid);
        }
        for (value, _) in y_ticks {
            let y = self.y_at(inner, *value);
            canvas.line((inner.x, y), (inner.right(), y), Color::Line, 1.0, Stroke::Solid);
        }
    }

    fn draw_x_axis(&self, canvas: &mut Canvas, inner: Frame, ticks: &[Tick]) {
        let bottom = inner.bottom();
        canvas.line((inner.x, bottom), (inner.right(), bottom), Color::Soft, 1.0, Stroke::Solid);
        let mut free = f64::NEG_INFINITY;
        for (value, label) in ticks {
            let x = self.x_at(inner, *value);
            canvas.line((x, bottom), (x, bottom + TICK), Color::Soft, 1.0, Stroke::Solid);
            let half = width_of(label, TEXT, Weight::Regular) / 2.0;
            // The last label ends within the figure; one without room is left out.
            let x = x.min(inner.right() + RIGHT - half);
            if x - half >= free {
                canvas.text(x, bottom + 17.0, Anchor::Middle, Color::Text, label);
                free = x + half + BETWEEN;
            }
        }
        if !self.x.label.is_empty() {
            let label = fitted(&self.x.label, inner.width + 30.0, TEXT, Weight::Regular);
            let middle = inner.x + inner.width / 2.0;
            canvas.text(middle, bottom + 35.0, Anchor::Middle, Color::Text, &label);
        }
    }

    fn draw_y_axis(&self, canvas: &mut Canvas, inner: Frame, left: f64, ticks: &[Tick]) {
        canvas.line((inner.x, inner.y), (inner.x, inner.bottom()), Color::Soft, 1.0, Stroke::Solid);
        for (value, label) in ticks {
            let y = self.y_at(inner, *value);
            canvas.line((inner.x - TICK, y), (inner.x, y), Color::Soft, 1.0, Stroke::Solid);
            canvas.text(inner.x - GAP, y + 4.5, Anchor::End, Color::Text, label);
        }
        if !self.y.label.is_empty() {
            let label = fitted(&self.y.label, inner.height + 30.0, TEXT, Weight::Regular);
            canvas.upward(left + 17.0, inner.y + inner.height / 2.0, Anchor::Middle, &label);
        }
    }

    fn inside(&self, value: f64) -> bool {
        let room = 1e-9 * (self.y.high - self.y.low);
        (self.y.low - room..=self.y.high + room).contains(&value)
    }

    fn draw_bars(&self, canvas: &mut Canvas, inner: Frame) {
        let zero = self.y.low < 0.0 && self.y.high > 0.0 && !self.y.log;
        let base = if self.y.log { self.y.low } else { 0_f64.clamp(self.y.low, self.y.high) };
        for bar in self.bars.iter().filter(|bar| self.inside(bar.value)) {
            let (left, top) = self.at(inner, (bar.from, bar.value));
            let (right, bottom) = self.at(inner, (bar.to, base));
            if bar.stroke {
                canvas.line((left, top), (right, top), bar.color, 1.6, Stroke::Solid);
            } else {
                let (y, height) = (top.min(bottom), (top - bottom).abs());
                canvas.rect(Frame { x: left, y, width: right - left, height }, bar.color, 1.0);
            }
        }
        // Bars hide the axis where they begin.
        if !self.bars.is_empty() && (zero || base == self.y.low) {
            let y = self.y_at(inner, base);
            canvas.line((inner.x, y), (inner.right(), y), Color::Soft, 1.0, Stroke::Solid);
        }
    }

    fn draw_bands(&self, canvas: &mut Canvas, inner: Frame) {
        for band in &self.bands {
            let ends = band.points.iter().filter(|(_, ends)| ends.iter().all(|end| self.inside(*end)));
            let at = |(x, ends): &(f64, [f64; 2])| ends.map(|end| self.at(inner, (*x, end)));
            let ends: Vec<[Point; 2]> = ends.map(at).collect();
            if band.whiskers || ends.len() == 1 {
                for [low, high] in ends {
                    canvas.line(low, high, band.color, 1.8, Stroke::Solid);
                    for (x, y) in [low, high] {
                        canvas.line((x - 4.0, y), (x + 4.0, y), band.color, 1.8, Stroke::Solid);
                    }
                }
            } else if !ends.is_empty() {
                let outline = ends.iter().map(|ends| ends[0]).chain(ends.iter().rev().map(|ends| ends[1]));
                canvas.area(outline.collect(), band.color, 0.22);
            }
        }
    }

    fn draw_curves(&self, canvas: &mut Canvas, inner: Frame) {
        for curve in &self.curves {
            let points: Vec<Point> = curve.points.iter().map(|point| self.at(inner, *point)).collect();
            let dots = if curve.dots != Dots::None || points.len() == 1 { &points[..] } else { &[] };
            if points.len() > 1 {
                let width = if curve.stroke == Stroke::Solid { 2.0 } else { 1.4 };
                canvas.lines(points.clone(), curve.color, width, curve.stroke);
            }
            dots.iter().for_each(|point| canvas.dot(*point, 3.5, curve.color, curve.dots != Dots::Hollow));
        }
    }

    /// The intervals of the vertical lines as bands, below everything else.
    fn draw_intervals(&self, canvas: &mut Canvas, inner: Frame) {
        for mark in &self.marks {
            let clamped = |value: f64| self.x_at(inner, value).clamp(inner.x, inner.right());
            if let Some([low, high]) = mark.interval {
                let (left, right) = (clamped(low), clamped(high));
                let width = (right - left).max(0.0);
                canvas.rect(Frame { x: left, width, ..inner }, mark.color, 0.14);
            }
        }
    }

    /// Vertical lines with their labels in rows above the axes.
    fn draw_marks(&self, canvas: &mut Canvas, inner: Frame, rows: usize) {
        for (mark, row) in self.marks.iter().zip(self.rows_of_labels(inner)) {
            let at = self.x_at(inner, mark.at);
            let (left, right) = self.ends_of_label(mark, inner);
            let y = inner.y - 6.0 - ROW * row.min(rows.saturating_sub(1)) as f64;
            canvas.line((at, y + 2.0), (at, inner.bottom()), mark.color, 1.6, Stroke::Dashed);
            canvas.text((left + right) / 2.0, y - 2.0, Anchor::Middle, Color::Text, &mark.label);
        }
    }

    /// Left and right end of a mark's label: around the mark, but within the axes where it fits.
    fn ends_of_label(&self, mark: &Mark, inner: Frame) -> (f64, f64) {
        let width = width_of(&mark.label, TEXT, Weight::Regular);
        let left = self.x_at(inner, mark.at) - width / 2.0;
        let left = left.clamp(inner.x, (inner.right() - width).max(inner.x));
        (left, left + width)
    }

    /// The row of each mark's label, such that labels in a row do not overlap.
    fn rows_of_labels(&self, inner: Frame) -> Vec<usize> {
        let mut taken: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut row_of = |mark: &Mark| {
            let (left, right) = self.ends_of_label(mark, inner);
            let free = |row: &Vec<(f64, f64)>| row.iter().all(|(a, b)| right + 8.0 < *a || *b + 8.0 < left);
            let row = taken.iter().position(free).unwrap_or(taken.len());
            if row == taken.len() {
                taken.push(Vec::new());
            }
            taken[row].push((left, right));
            row
        };
        self.marks.iter().map(&mut row_of).collect()
    }

    /// Horizontal lines with their labels at the side where no curve is near.
    fn draw_levels(&self, canvas: &mut Canvas, inner: Frame) {
        for level in self.levels.iter().filter(|level| self.inside(level.at)) {
            let y = self.y_at(inner, level.at);
            canvas.line((inner.x, y), (inner.right(), y), level.color, 1.2, Stroke::Dashed);
            if let Some((x, y)) = self.place_of_level(level, y, inner).filter(|_| !level.label.is_empty()) {
                canvas.text(x, y, Anchor::Start, Color::Soft, &level.label);
            }
        }
    }

    /// Where the label of a horizontal line is farthest from the curves: above or below it, left or right.
    fn place_of_level(&self, level: &Mark, y: f64, inner: Frame) -> Option<Point> {
        let width = width_of(&level.label, TEXT, Weight::Regular) + 8.0;
        let points =
            || self.curves.iter().flat_map(|curve| &curve.points).map(|point| self.at(inner, *point));
        let distance = |(left, baseline): Point| {
            let near = points().filter(|point| (left..=left + width).contains(&point.0));
            near.map(|point| (point.1 - (baseline - 4.0)).abs()).fold(f64::INFINITY, f64::min)
        };
        [inner.x, inner.right() - width]
            .into_iter()
            .flat_map(|left| [(left, y - 5.0), (left, y + 14.0)])
            .filter(|(_, baseline)| (inner.y + 8.0..inner.bottom() - 2.0).contains(baseline))
            .max_by(|a, b| distance(*a).total_cmp(&distance(*b)))
            .map(|(left, baseline)| (left + 4.0, baseline))
    }

    fn draw_empty(&self, canvas: &mut Canvas, inner: Frame) {
        if self.empty.is_empty() {
            return;
        }
        let (x, y) = (inner.x + inner.width / 2.0, inner.y + inner.height / 2.0);
        for (row, line) in wrapped(&self.empty, inner.width - 12.0).iter().enumerate() {
            canvas.text(x, y + ROW * row as f64, Anchor::Middle, Color::Soft, line);
        }
    }
}
