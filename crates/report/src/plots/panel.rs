//! Pairs of axes with what is drawn between them, alone or as small multiples in a grid.
//!
//! The drawing library draws the axes, their ticks and the lines of the grid. What is between them is put
//! where its scales say.

use std::sync::Arc;

use kuva::plot::LinePlot;
use kuva::render::color::Color;
use kuva::render::layout::{ComputedLayout, Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Primitive, render_multiple};
use kuva::render::theme::Theme;

use super::canvas::{Anchor, Canvas, Frame, Ink, Place, Stroke, TEXT, TITLE, fitted, plain, width_of};
use super::text::decimal;

/// Room at the left of a panel for the labels of ticks and the axis.
const LEFT: f64 = 62.0;
/// Room at the right, for the half of the last tick's label.
const RIGHT: f64 = 12.0;
/// Room below for the labels of ticks and the axis.
const BELOW: f64 = 42.0;
/// Room below for the labels of ticks alone.
const BELOW_TICKS: f64 = 24.0;
/// The height of a row of text above the axes.
const ROW: f64 = 17.0;

/// One axis.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) log: bool,
    /// The distance of ticks; chosen by the library where there is none.
    pub(crate) step: Option<f64>,
    /// Names of the whole numbers from 0; plain numbers where there are none.
    pub(crate) names: Vec<String>,
    /// Counted from the top down, as numbers below zero.
    pub(crate) down: bool,
}

/// A mark with a label: an effective depth above the axes, or a threshold between them.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) at: f64,
    pub(crate) interval: Option<[f64; 2]>,
    pub(crate) label: String,
    pub(crate) ink: Ink,
}

/// A curve through points; where it is broken, there are two.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) ink: Ink,
    pub(crate) stroke: Stroke,
    /// On the points, for values with nothing between them.
    pub(crate) dots: Dots,
}

/// What stands on the points of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dots {
    None,
    Filled,
    Hollow,
}

/// A bar from zero, or from the lower end of a logarithmic axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bar {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) value: f64,
    pub(crate) ink: Ink,
    /// A stroke across instead of a surface.
    pub(crate) stroke: bool,
}

/// Lower and upper ends over x.
#[derive(Debug, Clone)]
pub(crate) struct Band {
    pub(crate) points: Vec<(f64, [f64; 2])>,
    pub(crate) ink: Ink,
    /// A whisker at each point instead of a surface.
    pub(crate) whiskers: bool,
}

/// A pair of axes with what is between them.
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
    /// What is said between two values of x.
    pub(crate) hovers: Vec<([f64; 2], String)>,
    /// Said in the middle of a panel that has nothing to show.
    pub(crate) empty: String,
}

/// An entry of a legend.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) label: String,
    pub(crate) ink: Ink,
    pub(crate) shape: Shape,
}

/// What an entry of a legend shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Line(Stroke),
    Square,
    Tick,
    Dot,
    Ring,
}

/// Panels in rows.
#[derive(Debug, Clone)]
pub(crate) struct Grid {
    pub(crate) legend: Vec<Entry>,
    pub(crate) columns: usize,
    pub(crate) panels: Vec<Panel>,
    /// The height of the space between the axes.
    pub(crate) height: f64,
    pub(crate) width: f64,
}

impl Axis {
    pub(crate) fn new(label: impl Into<String>, low: f64, high: f64) -> Self {
        Self { label: label.into(), low, high, log: false, step: None, names: Vec::new(), down: false }
    }

    /// Whole numbers, such as layers, with ticks that fit `width`.
    pub(crate) fn whole(label: impl Into<String>, low: f64, high: f64, width: f64) -> Self {
        let most = (width / 30.0).max(2.0);
        let digits = if high >= 1000.0 { 2.0 } else { 1.0 };
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
        let step = steps.into_iter().find(|step| (high - low) * digits / step <= most).unwrap_or(1000.0);
        Self { step: Some(step), ..Self::new(label, low, high) }
    }

    /// Around the values, from round number to round number.
    pub(crate) fn around(label: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = values
            .into_iter()
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self::new(label, 0.0, 1.0);
        }
        // Ticks nearer than what numbers of this size can tell apart would never end.
        let size = high.abs().max(low.abs());
        let span = if high > low { (high - low).max(1e-9 * size).max(1e-12) } else { size.max(1e-9) };
        let step = round_up(span / 4.0);
        let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        let high = if high > low { high } else { low + step };
        Self { step: Some(step), ..Self::new(label, low, high) }
    }

    /// Around the values, all above zero, by factors.
    pub(crate) fn log_around(label: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = values
            .into_iter()
            .filter(|value| value.is_finite() && *value > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self { log: true, ..Self::new(label, 0.1, 1.0) };
        }
        let down = |value: f64| {
            let decade = 10_f64.powf((value.log10() + 1e-9).floor());
            [5.0, 2.0, 1.0].map(|f| f * decade).into_iter().find(|v| *v <= value).unwrap_or(decade)
        };
        Self { log: true, ..Self::new(label, down(low * 0.9), round_up(high * 1.05)) }
    }

    fn tick(&self) -> TickFormat {
        if self.down {
            return TickFormat::Custom(Arc::new(|value: f64| decimal(value.abs())));
        }
        if self.names.is_empty() {
            return TickFormat::Custom(Arc::new(decimal));
        }
        let names: Vec<String> = self.names.iter().map(|name| plain(name)).collect();
        let name = move |value: f64| {
            let whole = (value - value.round()).abs() < 1e-6 && value > -0.5;
            names.get(value.round() as usize).filter(|_| whole).cloned().unwrap_or_default()
        };
        TickFormat::Custom(Arc::new(name))
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below the value.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * decade)
        .into_iter()
        .find(|v| *v >= value * (1.0 - 1e-9))
        .unwrap_or(value)
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

    fn axes(&self, outer: Frame, above: f64, place: Place) -> Layout {
        let colour = |ink: Ink| ink.css(place).to_owned();
        let theme = Theme {
            background: "none".to_owned(),
            axis_color: colour(Ink::Soft),
            grid_color: colour(Ink::Line),
            tick_color: colour(Ink::Soft),
            text_color: colour(Ink::Text),
            ..Theme::light()
        };
        let (x, y) = ((self.x.low, self.x.high), (self.y.low, self.y.high));
        let mut layout = Layout::new(x, y)
            .with_width(outer.width)
            .with_height(outer.height)
            .with_force_margins(LEFT, RIGHT)
            .with_force_margins_y(above, self.below())
            .with_clamp_axis()
            .with_x_axis_min(x.0)
            .with_x_axis_max(x.1)
            .with_y_axis_min(y.0)
            .with_y_axis_max(y.1)
            .with_tick_size(TEXT)
            .with_label_size(TEXT)
            .with_body_size(TEXT)
            .with_title_size(TITLE)
            .with_x_tick_format(self.x.tick())
            .with_y_tick_format(self.y.tick())
            .with_theme(theme);
        layout.show_legend = false;
        layout.x_tick_step = self.x.step;
        layout.y_tick_step = self.y.step;
        if !self.x.label.is_empty() {
            layout = layout.with_x_label(plain(&self.x.label));
        }
        if !self.y.label.is_empty() {
            let room = outer.height - above - self.below() + 30.0;
            layout = layout.with_y_label(plain(&fitted(&self.y.label, room, TEXT)));
        }
        if self.x.log {
            layout = layout.with_log_x();
        }
        if self.y.log {
            layout = layout.with_log_y();
        }
        layout
    }

    /// Draws the panel alone over the width, with so much between the axes, and returns where that is.
    pub(crate) fn draw_alone(&self, canvas: &mut Canvas, y: f64, width: f64, height: f64) -> Frame {
        let outer = Frame { x: 0.0, y, width, height: self.above(0) + height + self.below() };
        self.draw(canvas, outer, 0)
    }

    /// Draws the panel into the frame, with room for so many rows of labels of marks.
    fn draw(&self, canvas: &mut Canvas, outer: Frame, rows: usize) -> Frame {
        let above = self.above(rows);
        let layout = self.axes(outer, above, canvas.place);
        let scale = ComputedLayout::from_layout(&layout);
        let at = |x: f64, y: f64| (outer.x + scale.map_x(x), outer.y + scale.map_y(y));
        // The library draws no axes without a curve; this one is not seen.
        let ends = [(self.x.low, self.y.low), (self.x.high, self.y.high)];
        let unseen = LinePlot::new().with_data(ends.to_vec()).with_color("none");
        let mut scene = render_multiple(vec![Plot::Line(unseen)], layout);
        scene.elements.retain(|element| match element {
            Primitive::PolyLine { stroke, .. } => !matches!(stroke, Color::None),
            Primitive::Path(path) => !matches!(path.stroke, Color::None),
            _ => true,
        });
        canvas.scene(scene, outer.x, outer.y);
        let inner = Frame {
            x: outer.x + LEFT,
            y: outer.y + above,
            width: outer.width - LEFT - RIGHT,
            height: outer.height - above - self.below(),
        };
        if !self.title.is_empty() {
            let title = fitted(&self.title, inner.width, TEXT);
            canvas.bold(inner.x, outer.y + ROW, Anchor::Start, Ink::Text, &title);
        }
        self.draw_intervals(canvas, inner, |x| at(x, self.y.low).0);
        self.draw_values(canvas, inner, at);
        self.draw_marks(canvas, inner, rows, |x| at(x, self.y.low).0);
        self.draw_levels(canvas, inner, at);
        if !self.empty.is_empty() {
            let (x, y) = (inner.x + inner.width / 2.0, inner.y + inner.height / 2.0);
            for (row, line) in
                super::canvas::wrapped(&self.empty, inner.width - 12.0, TEXT).iter().enumerate()
            {
                canvas.text(x, y + ROW * row as f64, Anchor::Middle, Ink::Soft, line);
            }
        }
        for ([from, to], text) in &self.hovers {
            let (left, right) = (at(*from, self.y.low).0, at(*to, self.y.low).0);
            let (left, right) = (left.max(inner.x), right.min(inner.x + inner.width));
            canvas.hover(Frame { x: left, width: (right - left).max(0.0), ..inner }, text.clone());
        }
        inner
    }

    fn inside(&self, value: f64) -> bool {
        let room = 1e-9 * (self.y.high - self.y.low);
        (self.y.low - room..=self.y.high + room).contains(&value)
    }

    fn draw_values(&self, canvas: &mut Canvas, inner: Frame, at: impl Fn(f64, f64) -> (f64, f64)) {
        let base = if self.y.log { self.y.low } else { 0_f64.clamp(self.y.low, self.y.high) };
        for bar in self.bars.iter().filter(|bar| self.inside(bar.value)) {
            let ((left, top), (right, bottom)) = (at(bar.from, bar.value), at(bar.to, base));
            if bar.stroke {
                canvas.line((left, top), (right, top), bar.ink, 1.6, Stroke::Solid);
            } else {
                let (y, height) = (top.min(bottom), (top - bottom).abs());
                canvas.rect(Frame { x: left, y, width: right - left, height }, bar.ink, 1.0);
            }
        }
        for band in &self.bands {
            let ends = band.points.iter().filter(|(_, ends)| ends.iter().all(|end| self.inside(*end)));
            let ends: Vec<_> = ends.map(|(x, [low, high])| (at(*x, *low), at(*x, *high))).collect();
            if band.whiskers || ends.len() == 1 {
                for (low, high) in ends {
                    canvas.line(low, high, band.ink, 1.8, Stroke::Solid);
                    for (x, y) in [low, high] {
                        canvas.line((x - 4.0, y), (x + 4.0, y), band.ink, 1.8, Stroke::Solid);
                    }
                }
            } else if !ends.is_empty() {
                let around = ends.iter().map(|ends| ends.0).chain(ends.iter().rev().map(|ends| ends.1));
                canvas.surface(&around.collect::<Vec<_>>(), band.ink, 0.22);
            }
        }
        for curve in &self.curves {
            let points: Vec<_> = curve.points.iter().map(|(x, y)| at(*x, *y)).collect();
            let dots = if curve.dots != Dots::None || points.len() == 1 { &points[..] } else { &[] };
            if points.len() > 1 {
                let width = if curve.stroke == Stroke::Solid { 2.0 } else { 1.4 };
                canvas.lines(points.clone(), curve.ink, width, curve.stroke);
            }
            dots.iter().for_each(|point| canvas.dot(*point, 3.5, curve.ink, curve.dots != Dots::Hollow));
        }
        // Bars hide the axis where they cross it.
        if !self.bars.is_empty() && self.y.low < 0.0 && self.y.high > 0.0 && !self.y.log {
            let y = at(self.x.low, 0.0).1;
            canvas.line((inner.x, y), (inner.x + inner.width, y), Ink::Soft, 1.0, Stroke::Solid);
        }
    }

    /// The intervals of the vertical lines as bands, below everything else.
    fn draw_intervals(&self, canvas: &mut Canvas, inner: Frame, x: impl Fn(f64) -> f64) {
        for mark in &self.marks {
            let clamped = |value: f64| x(value).clamp(inner.x, inner.x + inner.width);
            if let Some([low, high]) = mark.interval {
                let (left, right) = (clamped(low), clamped(high));
                let width = (right - left).max(0.0);
                canvas.rect(Frame { x: left, width, ..inner }, mark.ink, 0.14);
            }
        }
    }

    /// Vertical lines with their labels in rows above the axes.
    fn draw_marks(&self, canvas: &mut Canvas, inner: Frame, rows: usize, x: impl Fn(f64) -> f64) {
        let bottom = inner.y + inner.height;
        for (mark, row) in self.marks.iter().zip(label_rows(&self.marks, inner, &x)) {
            let at = x(mark.at);
            let width = width_of(&mark.label, TEXT);
            let from = (at - width / 2.0).clamp(inner.x, (inner.x + inner.width - width).max(inner.x));
            let y = inner.y - 6.0 - ROW * row.min(rows.saturating_sub(1)) as f64;
            canvas.line((at, y + 2.0), (at, bottom), mark.ink, 1.6, Stroke::Dashed);
            canvas.text(from + width / 2.0, y - 2.0, Anchor::Middle, Ink::Text, &mark.label);
        }
    }

    /// Horizontal lines with their labels at the side where no curve is near.
    fn draw_levels(&self, canvas: &mut Canvas, inner: Frame, at: impl Fn(f64, f64) -> (f64, f64)) {
        for level in self.levels.iter().filter(|level| self.inside(level.at)) {
            let y = at(self.x.low, level.at).1;
            canvas.line((inner.x, y), (inner.x + inner.width, y), level.ink, 1.2, Stroke::Dashed);
            if level.label.is_empty() {
                continue;
            }
            let width = width_of(&level.label, TEXT) + 6.0;
            let right = inner.x + inner.width;
            let points = || self.curves.iter().flat_map(|curve| &curve.points).map(|(x, y)| at(*x, *y));
            let space = |from: f64, to: f64, y: f64| {
                let near = points().filter(|point| (from..=to).contains(&point.0));
                near.map(|point| (point.1 - y).abs()).fold(f64::INFINITY, f64::min)
            };
            let sides = [(inner.x, inner.x + width), (right - width, right)];
            let spots = sides.into_iter().flat_map(|side| [(side, y - 5.0), (side, y + 14.0)]);
            let spots = spots.filter(|(_, y)| (inner.y + 8.0..inner.y + inner.height - 2.0).contains(y));
            let space_at = |spot: &((f64, f64), f64)| space(spot.0.0, spot.0.1, spot.1 - 4.0);
            let best = spots.max_by(|a, b| space_at(a).total_cmp(&space_at(b)));
            let Some(((from, _), y)) = best else { continue };
            canvas.text(from + 4.0, y, Anchor::Start, Ink::Soft, &level.label);
        }
    }
}

/// The row of each mark's label, so that no two in a row meet.
fn label_rows(marks: &[Mark], inner: Frame, x: impl Fn(f64) -> f64) -> Vec<usize> {
    let mut ends: Vec<Vec<(f64, f64)>> = Vec::new();
    let row = |mark: &Mark| {
        let width = width_of(&mark.label, TEXT) + 8.0;
        let from = (x(mark.at) - width / 2.0).clamp(inner.x, (inner.x + inner.width - width).max(inner.x));
        let free = |taken: &Vec<(f64, f64)>| taken.iter().all(|(a, b)| from + width < *a || *b < from);
        let row = ends.iter().position(free).unwrap_or(ends.len());
        if row == ends.len() {
            ends.push(Vec::new());
        }
        ends[row].push((from, from + width));
        row
    };
    marks.iter().map(row).collect()
}

impl Grid {
    /// One panel over the width of a column.
    pub(crate) fn one(panel: Panel, legend: Vec<Entry>) -> Self {
        Self { legend, columns: 1, panels: vec![panel], height: 210.0, width: super::canvas::COLUMN }
    }

    /// The width between the axes of a panel in so many columns.
    pub(crate) fn inner_width(width: f64, columns: usize) -> f64 {
        width / columns as f64 - LEFT - RIGHT
    }

    /// Draws the legend and the panels from `top` downward.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: f64) {
        let mut y = draw_legend(canvas, &self.legend, LEFT, top);
        let columns = self.columns.max(1);
        let width = self.width / columns as f64;
        for row in self.panels.chunks(columns) {
            let inner = Frame { x: LEFT, y: 0.0, width: width - LEFT - RIGHT, height: self.height };
            let rows = |panel: &Panel| {
                let span = panel.x.high - panel.x.low;
                let x = |value: f64| inner.x + inner.width * (value - panel.x.low) / span;
                label_rows(&panel.marks, inner, x).into_iter().max().map_or(0, |row| row + 1)
            };
            let rows = row.iter().map(rows).max().unwrap_or(0);
            let outer = |panel: &Panel| panel.above(rows) + self.height + panel.below();
            let height = row.iter().map(outer).fold(0.0, f64::max);
            for (column, panel) in row.iter().enumerate() {
                let frame = Frame { x: width * column as f64, y, width, height: outer(panel) };
                panel.draw(canvas, frame, rows);
            }
            y += height;
        }
        canvas.reach(y - 8.0);
    }
}

/// Entries from left to right, in as many rows as they need; returns where the rest begins.
pub(crate) fn draw_legend(canvas: &mut Canvas, legend: &[Entry], left: f64, top: f64) -> f64 {
    let (mut x, mut y) = (left, top + 10.0);
    for entry in legend {
        let label = fitted(&entry.label, canvas.width() - left - 40.0, TEXT);
        let width = 30.0 + width_of(&label, TEXT) + 12.0;
        if x > left && x + width > canvas.width() + 12.0 {
            (x, y) = (left, y + ROW);
        }
        let middle = (x + 11.0, y - 4.0);
        match entry.shape {
            Shape::Line(stroke) => canvas.line((x, y - 4.0), (x + 22.0, y - 4.0), entry.ink, 2.2, stroke),
            Shape::Square => {
                canvas.rect(Frame { x: x + 8.0, y: y - 10.0, width: 12.0, height: 12.0 }, entry.ink, 1.0);
            }
            Shape::Tick => {
                canvas.line((x + 6.0, y - 4.0), (x + 20.0, y - 4.0), entry.ink, 2.0, Stroke::Solid)
            }
            Shape::Dot => canvas.dot(middle, 4.5, entry.ink, true),
            Shape::Ring => canvas.dot(middle, 4.5, entry.ink, false),
        }
        canvas.text(x + 28.0, y, Anchor::Start, Ink::Text, &label);
        x += width;
    }
    if legend.is_empty() { top } else { y + 6.0 }
}
