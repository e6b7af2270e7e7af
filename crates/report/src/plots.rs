//! The figures of a results folder, as SVG and PNG.
//!
//! A figure is first described as data (bars, curves, marks, cells) and then drawn, so that the page can print the same
//! numbers as a table, and tests can compare data instead of pixels. Drawing makes a list of elements, which is written
//! as SVG or painted as PNG.
//!
//! - `observed`, `angles`, `experts`, `causal`, `order`, `certainty`: the figures of the probes that only observe the model,
//!   of how far its stream turns, of single experts, of the probes that change its run, of layers in another order, and of
//!   the uncertainty of the depths.
//! - `figure`, `table`: one figure, and its numbers.
//! - `layers`, `panel`, `axis`, `grid`, `legend`: charts over layers, pairs of axes, small multiples.
//! - `heat`, `gauge`: heat maps, the depth gauge.
//! - `canvas`, `color`, `font`: the elements of a drawing, its colours and its font.
//! - `svg`, `raster`: the two forms of a drawing.

mod angles;
pub(crate) mod axis;
pub(crate) mod canvas;
mod causal;
mod certainty;
pub(crate) mod color;
mod experts;
mod figure;
mod font;
mod gauge;
pub(crate) mod grid;
pub(crate) mod heat;
pub(crate) mod layers;
pub(crate) mod legend;
mod observed;
mod order;
pub(crate) mod panel;
mod raster;
mod svg;
mod table;

pub(crate) use self::figure::Body;
pub use self::figure::Figure;
pub use self::table::FigureTable;

use crate::gauge::Gauge;
use fathom_results::Results;

/// All figures that the results have numbers for, in the order of the report.
pub fn figures(results: &Results) -> Vec<Figure> {
    let mut all = Vec::new();
    let probes = &results.probes;
    if let Some(contributions) = &probes.contributions {
        all.extend(observed::contribution_figures(results, contributions));
    }
    if let Some(lens) = &probes.lens {
        all.extend(observed::lens_figures(results, lens));
    }
    if let Some(similarity) = &probes.similarity {
        all.extend(observed::similarity_figures(results, similarity));
    }
    if let Some(settling) = &probes.settling {
        all.push(observed::settling_figure(results, settling));
    }
    if let Some(turns) = &probes.angles {
        all.extend(angles::figures(results, turns));
    }
    if let Some(experts) = &probes.experts {
        all.extend(experts::figures(results, experts));
    }
    if let Some(skip) = &probes.skip {
        all.extend(causal::skip_figures(results, skip));
    }
    if let Some(effects) = &probes.order {
        all.extend(order::figures(results, effects));
    }
    all.extend(causal::erasure_figures(results, &probes.erasure));
    all.extend(causal::gradient_figures(results, &probes.gradients));
    all.extend(certainty::certainty_figures(results));
    all
}

/// The name of the depth gauge among the figures.
pub const GAUGE: &str = "depth_gauge";

/// The depth gauge: all layers as a column, and where each rule puts the depth. `None` without a rule.
pub fn depth_gauge(results: &Results) -> Option<Figure> {
    let found = Gauge::of(results)?;
    let table = gauge::table(&found);
    Some(Figure::of_run(
        results,
        GAUGE,
        "How much of the depth does useful work",
        "The column is the model, its first layer at the bottom. A layer is filled by the share of the rules in blue \
         that count it as needed; each mark is a rule with its 95 % interval over prompts.",
        (Body::Gauge(found), table),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_results::fixture;
    use fathom_results::{
        Angles, Experts, Order, OrderEffects, ProbeResults, ResampleHistogram, SkipMode, SkipPart,
    };

    #[test]
    fn a_figure_is_the_same_whatever_was_drawn_before() {
        let results = fixture::results();
        for figure in figures(&results) {
            assert!(figure.svg().unwrap() == figure.svg().unwrap(), "{}", figure.name);
        }
        let page = || crate::html::render(&results, &fixture::run()).unwrap();
        assert!(page() == page());
    }

    #[test]
    fn every_measured_probe_gives_figures_and_others_give_none() {
        let mut results = fixture::results();
        let names: Vec<_> = figures(&results).into_iter().map(|figure| figure.name).collect();
        assert_eq!(
            names,
            [
                "contributions_relative_norm",
                "contributions_cosine",
                "lens_kl",
                "lens_kl_output",
                "lens_overlap",
                "lens_entropy",
                "lens_nll",
                "similarity_angular_last",
                "similarity_angular_mean",
                "similarity_block_influence",
                "settling_histogram",
                "angles_step",
                "angles_last_layer",
                "angles_components",
                "angles_centre",
                "skip_future_layer",
                "skip_future_layer_output",
                "skip_local_attn",
                "order_layers",
                "order_middle",
                "erasure_effect_1",
                "erasure_effect_2",
                "erasure_effect_3",
                "erasure_effect_4",
                "gradients_attribution_1",
                "lens_resamples",
                "lens_thresholds",
                "lens_prompts",
                "settling_resamples",
                "settling_thresholds",
                "settling_prompts",
            ]
        );
        results.probes = ProbeResults::default();
        results.uncertainty = None;
        assert!(figures(&results).is_empty());
    }

    #[test]
    fn png_files_have_the_size_of_the_figure_and_more_than_a_background() {
        let results = fixture::results();
        for figure in figures(&results) {
            let png = figure.png().unwrap();
            assert_eq!(&png[1..4], b"PNG", "{}", figure.name);
            let width = u32::from_be_bytes(png[16..20].try_into().unwrap());
            assert_eq!(f64::from(width), 3.0 * figure.width(), "{}", figure.name);
            assert!(png.len() > 8_000, "{}: {}", figure.name, png.len());
        }
    }

    #[test]
    fn labels_from_outside_cannot_break_out_of_the_svg() {
        let mut results = fixture::results();
        results.model.id = "</text><script>x</script>\u{1b}[31m$\\frac{1}{2}$\"&".to_owned();
        for figure in figures(&results) {
            let svg = figure.svg().unwrap();
            assert!(!svg.contains("<script") && !svg.contains('\u{1b}'), "{}", figure.name);
            assert!(svg.contains("$"), "{}", figure.name);
        }
    }

    #[test]
    fn tokens_of_any_script_are_drawn() {
        // The font of PNG files has some scripts; other characters become boxes and never an error.
        let mut results = fixture::results();
        let pair = &mut results.probes.erasure[0];
        pair.tokens = ["深い", "🙂👩‍👩‍👧", "שלום", "\u{fffe}\u{0}", "e\u{301}\u{200d}\u{10ffff}"]
            .map(str::to_owned)
            .to_vec();
        let figure = figures(&results).into_iter().find(|figure| figure.name == "erasure_effect_1").unwrap();
        assert!(figure.svg().unwrap().contains("深い"));
        figure.png().unwrap();
    }

    #[test]
    fn values_that_hardly_differ_are_drawn_in_bounded_time() {
        let mut results = fixture::results();
        for (low, step) in [(1e-320, 1e-320), (1e9 - 1.0, 1e-7), (0.3, 1e-17), (-1e-300, 1e-301)] {
            let values = |length: usize| (0..length).map(|l| low + step * l as f64).collect::<Vec<_>>();
            results.probes.lens.as_mut().unwrap().kl_lens_final = values(31);
            results.probes.contributions.as_mut().unwrap().cosine.layer.mean = values(30);
            results.probes.similarity.as_mut().unwrap().block_influence = values(30);
            for figure in figures(&results).iter().take(9) {
                figure.png().unwrap();
            }
        }
    }

    #[test]
    fn curves_without_a_drawable_value_do_not_panic() {
        let mut results = fixture::results();
        let lens = results.probes.lens.as_mut().unwrap();
        lens.kl_lens_final.fill(f64::NAN);
        lens.overlap.fill(f64::INFINITY);
        let similarity = results.probes.similarity.as_mut().unwrap();
        similarity.block_influence.fill(0.0);
        similarity.angular_last.iter_mut().for_each(|row| row.fill(f64::NAN));
        results.probes.contributions.as_mut().unwrap().relative_norm.attn.mean[3] = -1.0;
        results.probes.settling.as_mut().unwrap().histogram.fill(0);
        for figure in figures(&results) {
            assert!(figure.svg().unwrap().starts_with("<svg"));
            figure.png().unwrap();
        }
    }

    #[test]
    fn depths_and_thresholds_are_marked() {
        let results = fixture::results();
        let svg =
            |name| figures(&results).into_iter().find(|figure| figure.name == name).unwrap().svg().unwrap();
        for label in ["kl: 22", "kl_last: 23", "0.5 of the maximum"] {
            assert!(svg("lens_kl").contains(label), "{label}");
        }
        assert!(svg("lens_overlap").contains("threshold 0.3"));
        assert!(svg("settling_histogram").contains("mean 23.4"));
    }

    #[test]
    fn absurd_numbers_are_drawn_in_bounded_time() {
        let mut results = fixture::results();
        results.depth[0].value = Some(1e300);
        results.depth[1].value = Some(-1e15);
        results.depth[0].threshold = Some(1e300);
        results.depth[2].threshold = Some(-1e12);
        results.probes.lens.as_mut().unwrap().kl_lens_final[3] = 1e300;
        results.probes.lens.as_mut().unwrap().overlap[3] = -1e200;
        let norm = &mut results.probes.contributions.as_mut().unwrap().relative_norm;
        norm.attn.mean[0] = f64::MAX;
        norm.attn.mean[1] = f64::MIN_POSITIVE;
        let settling = results.probes.settling.as_mut().unwrap();
        settling.mean_settle_layer = 1e18;
        settling.deep_layer = usize::MAX;
        settling.histogram[2] = u64::MAX;
        results.probes.similarity.as_mut().unwrap().angular_last[2][2] = 1e300;
        for figure in figures(&results) {
            assert!(figure.svg().unwrap().len() < 200_000, "{}", figure.name);
            figure.png().unwrap();
        }
    }

    /// Of four layers, the last two have experts.
    #[test]
    fn layers_without_experts_stay_empty() {
        let mut results = fixture::results();
        results.model.layers = 4;
        let rows = vec![vec![0.5, 0.25, 0.25], vec![1.5, 0.0, -0.5]];
        let experts = Experts {
            layers: vec![2, 3],
            active: 1,
            tokens: vec![vec![2, 1, 1], vec![4, 0, 0]],
            weight: rows.clone(),
            relative_norm: rows.clone(),
            share: rows,
            ..Experts::default()
        };
        results.probes = ProbeResults { experts: Some(experts), ..ProbeResults::default() };
        results.validate().unwrap();
        let all = figures(&results);
        let named = |name: &str| all.iter().find(|figure| figure.name == name).unwrap();
        for figure in &all {
            figure.png().unwrap();
        }
        let load = &named("experts_load").table().rows;
        assert!(load[0].1.iter().all(|value| value.is_nan()) && load[3].1 == [1.0, 0.0, 0.0], "{load:?}");
        let used = &named("experts_used").table().rows;
        assert!(used[1].1[0].is_nan() && (used[3].1[0] - 1.0).abs() < 1e-12, "{used:?}");
        results.probes.experts.as_mut().unwrap().share[1].pop();
        assert!(results.validate().unwrap_err().to_string().contains("probes.experts.share[1]"));
    }

    #[test]
    fn a_model_of_one_layer_can_be_drawn() {
        let mut results = fixture::results();
        results.model.layers = 1;
        let one = || OrderEffects { kl: vec![0.5], top1_agreement: vec![0.5], nll: vec![4.0] };
        let contributions = results.probes.contributions.as_mut().unwrap();
        for parts in [&mut contributions.relative_norm, &mut contributions.cosine] {
            for summary in [&mut parts.attn, &mut parts.mlp, &mut parts.layer] {
                summary.mean.truncate(1);
                summary.median.truncate(1);
            }
        }
        results.probes.lens = None;
        results.probes.skip = None;
        results.probes.order = Some(Order { skip: one(), ..Order::default() });
        results.probes.erasure.clear();
        results.probes.gradients.clear();
        let similarity = results.probes.similarity.as_mut().unwrap();
        similarity.block_influence.truncate(1);
        similarity.angular_last = vec![vec![0.25]];
        similarity.angular_mean = vec![vec![0.25]];
        results.probes.settling.as_mut().unwrap().histogram = vec![3, 4];
        results.probes.angles = Some(Angles {
            step: vec![1.5],
            to_end: vec![1.5],
            last_layer_nll: vec![3.0],
            centre_by_position: vec![0.0],
            ..Angles::default()
        });
        results.validate().unwrap();
        for figure in figures(&results) {
            figure.png().unwrap();
        }
    }

    #[test]
    fn the_heat_map_table_is_a_triangle() {
        let results = fixture::results();
        let figure =
            figures(&results).into_iter().find(|figure| figure.name == "similarity_angular_last").unwrap();
        let numbers = figure.table();
        assert_eq!((numbers.rows.len(), numbers.rows[0].0.as_str(), numbers.headings.len()), (30, "1", 30));
        for (n, values) in &numbers.rows {
            let n: usize = n.parse().unwrap();
            assert_eq!(values.iter().filter(|value| value.is_finite()).count(), 31 - n);
        }
    }

    fn named(results: &Results, name: &str) -> FigureTable {
        figures(results).into_iter().find(|figure| figure.name == name).unwrap().table().clone()
    }

    #[test]
    fn the_figures_of_pairs_show_the_numbers_of_the_file() {
        let results = fixture::results();
        let numbers = named(&results, "erasure_effect_3");
        assert_eq!(numbers.index, "token, by erased before layer");
        assert_eq!((numbers.headings.len(), numbers.headings[30].as_str()), (31, "30"));
        let names: Vec<&str> = numbers.rows.iter().map(|row| row.0.as_str()).collect();
        assert_eq!(names, ["0 2", "1 ␣+", "2 ␣", "3 \\n", "4 </script><im…"]);
        // The fixture's effect of token t before layer l is (30 - l) / (30 + t).
        assert_eq!((numbers.rows[2].1[14], numbers.rows[0].1[30]), (0.5, 0.0));
        let numbers = named(&results, "gradients_attribution_1");
        assert_eq!((numbers.rows.len(), numbers.headings.len()), (5, 30));
        assert_eq!((numbers.rows[0].1[0], numbers.rows[4].1[3]), (-2.0, 0.5));
    }

    #[test]
    fn the_figures_of_skipping_show_the_numbers_of_the_file() {
        let results = fixture::results();
        let numbers = named(&results, "skip_future_layer");
        assert_eq!(numbers.index, "skipped layer, by later layer");
        assert_eq!((numbers.rows[4].0.as_str(), numbers.headings[6].as_str()), ("4", "6"));
        // The fixture's effect of layer s on layer l is 1.5 / (l - s), and nothing on earlier ones.
        assert_eq!((numbers.rows[4].1[6], numbers.rows[6].1[4]), (0.75, 0.0));
        let numbers = named(&results, "skip_future_layer_output");
        assert_eq!(numbers.headings, ["largest of any prompt", "mean over prompts"]);
        assert_eq!((numbers.index.as_str(), &numbers.rows[0].1), ("skipped layer", &vec![1.3, 0.6]));
    }

    #[test]
    fn resamples_are_counted_by_depth() {
        let results = fixture::results();
        let rows = |name| named(&results, name).rows;
        let row = |name: &str, count: f64| (name.to_owned(), vec![count]);
        let expected =
            [row("kl: 21", 100.0), row("kl: 22", 1700.0), row("kl: 23", 197.0), row("kl: none", 3.0)];
        assert_eq!(rows("lens_resamples"), expected);
        assert_eq!(rows("settling_resamples")[0], row("settling: 23.25 to 23.5", 1200.0));
    }

    #[test]
    fn pairs_that_are_not_drawn_are_listed() {
        let results = fixture::results();
        let all = figures(&results);
        let last = all.iter().find(|figure| figure.name == "erasure_effect_4").unwrap();
        assert_eq!((last.not_drawn, last.listed.len()), (2, 2));
        assert_eq!(last.listed[1], "Question: “5 + 2 = ”, answer: “7”.");
        assert_eq!(all.iter().map(|figure| figure.not_drawn).sum::<usize>(), 2);
    }

    #[test]
    fn causal_figures_without_a_drawable_value_do_not_panic() {
        let mut results = fixture::results();
        let skip = results
            .probes
            .skip
            .as_mut()
            .unwrap()
            .get_mut(&SkipMode::Future)
            .unwrap()
            .get_mut(&SkipPart::Layer)
            .unwrap();
        skip.layer_effect.max.iter_mut().for_each(|row| row.fill(f64::NAN));
        skip.output_effect.as_mut().unwrap().max.fill(f64::NAN);
        skip.output_effect.as_mut().unwrap().mean.fill(f64::NEG_INFINITY);
        let erasure = &mut results.probes.erasure;
        erasure[0].effect.iter_mut().for_each(|row| row.fill(0.0));
        erasure[1].effect[3][2] = 1e300;
        erasure[2].tokens.clear();
        erasure[2].effect.iter_mut().for_each(Vec::clear);
        results.probes.gradients[0].gradients.attribution[0].fill(f64::NEG_INFINITY);
        let rules = &mut results.uncertainty.as_mut().unwrap().rules;
        rules[0].histogram =
            Some(ResampleHistogram { edges: vec![-1e300, 0.0, 1e300], counts: vec![0, u64::MAX], none: 0 });
        let mut close = rules[1].clone();
        close.histogram = Some(ResampleHistogram { edges: vec![2.0; 31], counts: vec![7; 30], none: 0 });
        rules.push(close);
        let rules = &mut results.uncertainty.as_mut().unwrap().rules;
        rules[1].histogram =
            Some(ResampleHistogram { edges: vec![1.0, 1.0 + 1e-15], counts: vec![0], none: 0 });
        results.validate().unwrap();
        for figure in figures(&results) {
            assert!(figure.svg().unwrap().len() < 200_000, "{}", figure.name);
            figure.png().unwrap();
        }
    }
}
