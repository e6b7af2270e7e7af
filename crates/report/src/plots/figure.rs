//! One figure: what it shows, how to read it, its numbers, and how to draw it.

use fathom_results::Results;
use std::borrow::Cow;

use super::canvas::{COLUMN, Canvas};
use super::color::Surface;
use super::gauge;
use super::grid::Grid;
use super::heat::Heat;
use super::table::FigureTable;
use super::{raster, svg};
use crate::error::{Error, Result};
use crate::gauge::Gauge;

/// One figure: what it shows, how to read it, and how to draw it.
#[derive(Debug, Clone)]
pub struct Figure {
    /// The file name without its extension: the probe and the quantity.
    pub name: String,
    /// The title.
    pub title: String,
    /// How to read it, in about two lines.
    pub reading: Cow<'static, str>,
    /// A remark on this figure alone, such as its question and answer; often empty. It is text from outside and not
    /// escaped.
    pub note: String,
    /// Pairs that were measured but not drawn, as many as are listed.
    pub(crate) listed: Vec<String>,
    /// The number of pairs that were measured but not drawn.
    pub(crate) not_drawn: usize,
    caption: String,
    table: FigureTable,
    body: Body,
}

/// The part of a figure below its title.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Panels(Grid),
    Heat(Heat),
    Gauge(Gauge),
}

impl Body {
    /// A heat map with its table.
    pub(crate) fn heat(heat: Heat) -> (Self, FigureTable) {
        let table = heat.table();
        (Self::Heat(heat), table)
    }
}

impl Figure {
    /// A figure of one run, captioned with its model and data.
    pub(crate) fn of_run(
        results: &Results,
        name: impl Into<String>,
        title: impl Into<String>,
        reading: &'static str,
        body: (Body, FigureTable),
    ) -> Self {
        let reading = match &results.objective {
            Some(objective) => Cow::Owned(objective.worded(reading)),
            None => Cow::Borrowed(reading),
        };
        let title = title.into();
        let title = results.objective.as_ref().map_or(title.clone(), |objective| objective.worded(&title));
        Self::new(name, title, reading, format!("{} on {}", results.model.id, results.data.id), body)
    }

    pub(crate) fn new(
        name: impl Into<String>,
        title: impl Into<String>,
        reading: impl Into<Cow<'static, str>>,
        caption: String,
        (body, table): (Body, FigureTable),
    ) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            reading: reading.into(),
            note: String::new(),
            listed: Vec::new(),
            not_drawn: 0,
            caption,
            table,
            body,
        }
    }

    /// The figure as an SVG file on white.
    ///
    /// # Errors
    ///
    /// [`Error::Draw`] when the picture of a heat map cannot be encoded.
    pub fn svg(&self) -> Result<String> {
        let caption = format!("{}: {}", self.title, self.caption);
        svg::write(&self.drawn(Surface::File), &caption).map_err(|reason| self.failed("svg", reason))
    }

    /// The figure as an element for the page: transparent, in the page's colours, with values on hovering.
    pub(crate) fn inline_svg(&self) -> Result<String> {
        svg::write(&self.drawn(Surface::Page), "").map_err(|reason| self.failed("svg", reason))
    }

    /// The figure as a PNG file on white, three pixels per unit of the SVG file.
    ///
    /// # Errors
    ///
    /// [`Error::Draw`] when the picture cannot be encoded.
    pub fn png(&self) -> Result<Vec<u8>> {
        raster::png(&self.drawn(Surface::File)).map_err(|reason| self.failed("png", reason))
    }

    fn failed(&self, extension: &str, reason: String) -> Error {
        Error::Draw { what: format!("{}.{extension}", self.name), reason }
    }

    fn drawn(&self, surface: Surface) -> Canvas {
        let mut canvas = Canvas::new(self.width(), surface);
        let top = canvas.head(&self.title, &self.caption);
        match &self.body {
            Body::Panels(grid) => grid.draw(&mut canvas, top),
            Body::Heat(heat) => heat.draw(&mut canvas, top),
            Body::Gauge(gauge) => gauge::draw(gauge, &mut canvas, top),
        }
        canvas
    }

    /// The width of the figure in units of the SVG file.
    pub(crate) fn width(&self) -> f64 {
        match &self.body {
            Body::Panels(grid) => grid.width,
            Body::Heat(heat) => heat.width(),
            Body::Gauge(_) => COLUMN,
        }
    }

    /// Whether the figure takes both columns of the page.
    pub(crate) fn is_wide(&self) -> bool {
        self.width() > COLUMN
    }

    /// The numbers that the figure shows.
    pub fn table(&self) -> &FigureTable {
        &self.table
    }
}
