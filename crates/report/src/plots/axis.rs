//! Axes: their ends, their ticks, and where a value is along them.

use crate::text::decimal;

/// Ticks of one axis; more are damage and not a scale.
const MOST_TICKS: usize = 200;

/// One axis.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub(crate) label: String,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) log: bool,
    /// The distance between ticks, chosen from the length where it is missing. An infinite one means no ticks.
    pub(crate) step: Option<f64>,
    /// Names of the whole numbers from 0; numbers are printed where it is empty.
    pub(crate) names: Vec<String>,
    /// Values are printed without a sign: rows counted from the top down are numbers below zero.
    pub(crate) down: bool,
}

/// A tick: its value, and its label.
pub(crate) type Tick = (f64, String);

impl Axis {
    pub(crate) fn new(label: impl Into<String>, low: f64, high: f64) -> Self {
        Self { label: label.into(), low, high, log: false, step: None, names: Vec::new(), down: false }
    }

    /// The same axis with a tick at each multiple of `step`.
    pub(crate) fn every(self, step: f64) -> Self {
        Self { step: Some(step), ..self }
    }

    /// Whole numbers, such as layers, with ticks that fit `width`.
    pub(crate) fn whole(label: impl Into<String>, low: f64, high: f64, width: f64) -> Self {
        let most = (width / 30.0).max(2.0);
        let digits = if high >= 1000.0 { 2.0 } else { 1.0 };
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
        let step = steps.into_iter().find(|step| (high - low) * digits / step <= most).unwrap_or(1000.0);
        Self::new(label, low, high).every(step)
    }

    /// An axis around the values that begins and ends at a tick.
    pub(crate) fn around(label: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = values
            .into_iter()
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            return Self::new(label, 0.0, 1.0);
        }
        // Ticks closer together than floats of this size can resolve would never end.
        let size = high.abs().max(low.abs());
        let span = if high > low { (high - low).max(1e-9 * size).max(1e-12) } else { size.max(1e-9) };
        let step = round_up(span / 4.0);
        let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        let high = if high > low { high } else { low + step };
        Self::new(label, low, high).every(step)
    }

    /// A logarithmic axis around the values above zero.
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

    /// Where a value is along the axis: 0 at the low end, 1 at the high end.
    pub(crate) fn share(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.log { value.max(1e-300).log10() } else { value };
        let (low, high) = (scale(self.low), scale(self.high));
        (scale(value) - low) / (high - low)
    }

    /// The ticks, in ascending order, of an axis of `length` user units whose labels are `room` long.
    pub(crate) fn ticks(&self, length: f64, room: f64) -> Vec<Tick> {
        let values = if self.log { self.log_ticks(length, room) } else { self.linear_ticks(length, room) };
        values.into_iter().map(|value| (value, self.name(value))).collect()
    }

    fn linear_ticks(&self, length: f64, room: f64) -> Vec<f64> {
        let span = self.high - self.low;
        let step = self.step.unwrap_or_else(|| round_up(span * (room / length).max(0.01)));
        let first = (self.low / step - 1e-6).ceil();
        let count = ((self.high / step + 1e-6).floor() - first + 1.0).clamp(0.0, MOST_TICKS as f64);
        if !step.is_finite() || !first.is_finite() {
            return Vec::new();
        }
        (0..count as usize).map(|index| (first + index as f64) * step).collect()
    }

    /// Powers of ten, with 2 and 5 times each where they have room; every n-th power where even those do not.
    fn log_ticks(&self, length: f64, room: f64) -> Vec<f64> {
        let (low, high) = (self.low.log10(), self.high.log10());
        let decade = length / (high - low);
        // From 1 to 2 it is 0.3 decades.
        let factors: &[f64] = if 0.3 * decade >= room { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let every = (room / decade).ceil().max(1.0) as i32;
        let inside = |value: &f64| (self.low * (1.0 - 1e-9)..=self.high * (1.0 + 1e-9)).contains(value);
        (low.floor() as i32..=high.ceil() as i32)
            .filter(|power| power.rem_euclid(every) == 0)
            .flat_map(|power| factors.iter().map(move |factor| factor * 10_f64.powi(power)))
            .filter(inside)
            .collect()
    }

    fn name(&self, value: f64) -> String {
        if self.names.is_empty() {
            return decimal(if self.down { value.abs() } else { value });
        }
        let whole = (value - value.round()).abs() < 1e-6 && value > -0.5;
        self.names.get(value.round() as usize).filter(|_| whole).cloned().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, length: f64) -> Vec<String> {
        axis.ticks(length, 20.0).into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_are_round_numbers_from_end_to_end() {
        let axis = Axis::around("", [-0.31, 0.42]);
        assert_eq!((axis.low, axis.high), (-0.4, 0.6000000000000001));
        assert_eq!(labels(&axis, 200.0), ["-0.4", "-0.2", "0", "0.2", "0.4", "0.6"]);
        assert_eq!(labels(&Axis::whole("", -0.5, 29.5, 446.0), 446.0), ["0", "5", "10", "15", "20", "25"]);
        assert_eq!(labels(&Axis::new("", 0.0, 1.0).every(0.25), 200.0), ["0", "0.25", "0.5", "0.75", "1"]);
        assert_eq!(labels(&Axis::new("", -1e9, 1e9), 100.0), ["-1e9", "-5e8", "0", "5e8", "1e9"]);
        assert_eq!(labels(&Axis::new("", 0.0, 5.0).every(f64::INFINITY), 100.0), [""; 0]);
    }

    #[test]
    fn logarithmic_ticks_thin_out_where_there_is_no_room() {
        let axis = Axis::log_around("", [0.06, 1.9]);
        assert_eq!((axis.low, axis.high), (0.05, 2.0));
        assert_eq!(labels(&axis, 200.0), ["0.05", "0.1", "0.2", "0.5", "1", "2"]);
        assert_eq!(labels(&axis, 80.0), ["0.1", "1"]);
        let wide = Axis::log_around("", [1e-9, 1e9]);
        assert!(labels(&wide, 100.0).len() <= 5, "{:?}", labels(&wide, 100.0));
    }

    #[test]
    fn shares_follow_the_scale() {
        assert_eq!(Axis::new("", 2.0, 4.0).share(3.0), 0.5);
        let log = Axis { log: true, ..Axis::new("", 0.01, 1.0) };
        assert!((log.share(0.1) - 0.5).abs() < 1e-12 && log.share(0.0) < -1.0);
    }

    #[test]
    fn names_and_rows_from_the_top_replace_numbers() {
        let named = Axis { names: vec!["a".into(), "b".into()], ..Axis::new("", -0.4, 1.6).every(1.0) };
        assert_eq!(labels(&named, 100.0), ["a", "b"]);
        let down = Axis { down: true, ..Axis::whole("", -2.5, 0.5, 100.0) };
        assert_eq!(labels(&down, 100.0), ["2", "1", "0"]);
    }

    #[test]
    fn damage_does_not_make_endless_axes() {
        for (low, high) in [(0.0, 1e300), (f64::NAN, 1.0), (1e-320, 2e-320), (-1e9, 1e9 + 1e-7)] {
            for step in [None, Some(1e-9)] {
                let axis = Axis { step, ..Axis::new("", low, high) };
                assert!(axis.ticks(100.0, 20.0).len() <= MOST_TICKS);
            }
        }
        let endless = Axis { log: true, ..Axis::new("", 1e-300, 1e300) };
        assert!(endless.ticks(100.0, 20.0).len() <= MOST_TICKS);
    }
}
