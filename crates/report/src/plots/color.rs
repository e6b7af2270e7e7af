//! The colours of figures: a palette that follows the page's background, and scales for heat maps.

/// Where a figure is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    /// A file of its own: white background, with a title.
    File,
    /// Inside a page: transparent, in the page's colours; the page prints the title.
    Page,
}

/// The colours of all figures: those of Okabe and Ito, which colour-blind readers can tell apart. On a page they are
/// CSS variables, because a dark background needs lighter ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    Text,
    Soft,
    Line,
    Paper,
    Blue,
    Orange,
    Green,
    Vermilion,
    Purple,
    Sky,
}

/// Red, green and blue.
pub(crate) type Rgb = [u8; 3];

impl Color {
    /// Colours for series, in the order in which they are used.
    pub(crate) const SERIES: [Self; 8] = [
        Self::Blue,
        Self::Orange,
        Self::Green,
        Self::Purple,
        Self::Vermilion,
        Self::Sky,
        Self::Text,
        Self::Soft,
    ];

    /// The colour on white.
    pub(crate) fn rgb(self) -> Rgb {
        hex(match self {
            Self::Text => 0x1b1f24,
            Self::Soft => 0x57606a,
            Self::Line => 0xd8dee4,
            Self::Paper => 0xffffff,
            Self::Blue => 0x0072b2,
            Self::Orange => 0xe69f00,
            Self::Green => 0x009e73,
            Self::Vermilion => 0xd55e00,
            Self::Purple => 0xcc79a7,
            Self::Sky => 0x56b4e9,
        })
    }

    /// The colour as CSS.
    pub(crate) fn css(self, surface: Surface) -> String {
        let variable = match self {
            Self::Text => "ink",
            Self::Soft => "soft",
            Self::Line => "line",
            Self::Paper => "paper",
            Self::Blue => "blue",
            Self::Orange => "orange",
            Self::Green => "green",
            Self::Vermilion => "vermilion",
            Self::Purple => "purple",
            Self::Sky => "sky",
        };
        match surface {
            Surface::Page => format!("var(--{variable})"),
            Surface::File => {
                let [red, green, blue] = self.rgb();
                format!("#{red:02x}{green:02x}{blue:02x}")
            }
        }
    }
}

/// Viridis, every fifth of the 256 colours that its authors, Nathaniel Smith and Stéfan van der Walt, published with
/// Matplotlib under CC0. Colours between them are interpolated, which is exact to one level.
const VIRIDIS: [u32; 52] = [
    0x440154, 0x46085c, 0x471063, 0x481769, 0x481d6f, 0x482475, 0x472a7a, 0x46307e, 0x453781, 0x433d84,
    0x414287, 0x3f4889, 0x3d4e8a, 0x3a538b, 0x38598c, 0x355e8d, 0x33638d, 0x31688e, 0x2e6d8e, 0x2c718e,
    0x2a768e, 0x297b8e, 0x27808e, 0x25848e, 0x23898e, 0x218e8d, 0x20928c, 0x1f978b, 0x1e9c89, 0x1fa188,
    0x21a585, 0x24aa83, 0x28ae80, 0x2eb37c, 0x35b779, 0x3dbc74, 0x46c06f, 0x50c46a, 0x5ac864, 0x65cb5e,
    0x70cf57, 0x7cd250, 0x89d548, 0x95d840, 0xa2da37, 0xb0dd2f, 0xbddf26, 0xcae11f, 0xd8e219, 0xe5e419,
    0xf1e51d, 0xfde725,
];

/// Blue through near-white to red, the same steps of lightness on both sides.
const BLUE_RED: [u32; 7] = [0x0a3269, 0x2d78b9, 0x8cc3e1, 0xf7f7f7, 0xf0a07d, 0xc0393f, 0x670a1e];

/// Viridis at a share from 0 to 1.
pub(crate) fn viridis(share: f64) -> Rgb {
    between(&VIRIDIS, share)
}

/// Blue at 0, near-white at 0.5, red at 1.
pub(crate) fn blue_red(share: f64) -> Rgb {
    between(&BLUE_RED, share)
}

fn between(table: &[u32], share: f64) -> Rgb {
    let at = share.clamp(0.0, 1.0) * (table.len() - 1) as f64;
    let index = (at as usize).min(table.len() - 2);
    let (low, high) = (hex(table[index]), hex(table[index + 1]));
    let part = at - index as f64;
    let mix = |low: u8, high: u8| (f64::from(low) + (f64::from(high) - f64::from(low)) * part).round() as u8;
    [mix(low[0], high[0]), mix(low[1], high[1]), mix(low[2], high[2])]
}

fn hex(color: u32) -> Rgb {
    let [_, red, green, blue] = color.to_be_bytes();
    [red, green, blue]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, as WCAG defines it.
    fn luminance(rgb: Rgb) -> f64 {
        let linear = |level: u8| {
            let level = f64::from(level) / 255.0;
            if level <= 0.04045 { level / 12.92 } else { ((level + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(rgb[0]) + 0.7152 * linear(rgb[1]) + 0.0722 * linear(rgb[2])
    }

    #[test]
    fn viridis_is_the_published_one() {
        let published = [(0, [68, 1, 84]), (64, [59, 82, 139]), (127, [33, 144, 141]), (255, [253, 231, 37])];
        for (index, rgb) in published {
            let ours = viridis(f64::from(index) / 255.0);
            assert!(ours.iter().zip(rgb).all(|(a, b)| a.abs_diff(b) <= 1), "{index}: {ours:?} {rgb:?}");
        }
    }

    #[test]
    fn scales_grow_lighter_towards_the_top_or_the_middle() {
        let steps = |scale: fn(f64) -> Rgb, low: f64, high: f64| -> Vec<f64> {
            (0..=100).map(|i| luminance(scale(low + (high - low) * f64::from(i) / 100.0))).collect()
        };
        for values in [steps(viridis, 0.0, 1.0), steps(blue_red, 0.0, 0.5), steps(blue_red, 1.0, 0.5)] {
            assert!(values.windows(2).all(|two| two[0] <= two[1] + 1e-3), "{values:?}");
        }
    }

    #[test]
    fn colors_of_the_page_are_variables() {
        assert_eq!(Color::Blue.css(Surface::File), "#0072b2");
        assert_eq!(Color::Text.css(Surface::Page), "var(--ink)");
    }
}
