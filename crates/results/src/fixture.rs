//! Made-up results of a model with 30 layers, shaped like real ones, for tests.

use crate::*;

const LAYERS: usize = 30;

fn curve(length: usize, f: impl Fn(f64) -> f64) -> Vec<f64> {
    (0..length).map(|l| f(l as f64 / (length - 1) as f64)).collect()
}

fn summary(f: impl Fn(f64) -> f64) -> MeanMedian {
    let mean = curve(LAYERS, &f);
    MeanMedian { median: mean.iter().map(|v| v * 0.8).collect(), mean }
}

fn contributions() -> Contributions {
    let wave = |x: f64, phase: f64| 0.25 * (9.0 * x + phase).sin();
    Contributions {
        left_out: None,
        relative_norm: Parts {
            attn: summary(|x| 0.7 * (-4.0 * x).exp() + 0.04 + wave(x, 0.0).abs() * 0.1),
            mlp: summary(|x| 2.0 * (-6.0 * x).exp() + 0.08 + 0.4 * x.powi(12)),
            layer: summary(|x| 2.4 * (-5.0 * x).exp() + 0.1 + 0.4 * x.powi(12)),
        },
        cosine: Parts {
            attn: summary(|x| wave(x, 2.5) - 0.1),
            mlp: summary(|x| wave(x, 3.0) + 0.4 * x - 0.2),
            layer: summary(|x| wave(x, 2.8) + 0.3 * x - 0.15),
        },
    }
}

fn lens() -> LensCurves {
    let fall = |scale: f64| {
        move |x: f64| scale * (1.0 - 1.0 / (1.0 + (-14.0 * (x - 0.75)).exp()) - 0.03 * x).max(0.0)
    };
    let mut lens = LensCurves {
        kl_lens_final: curve(LAYERS + 1, fall(9.0)),
        kl_final_lens: curve(LAYERS + 1, fall(11.0)),
        jsd_bits: curve(LAYERS + 1, fall(0.95)),
        overlap: curve(LAYERS + 1, |x| x.powi(4)),
        top1_agreement: curve(LAYERS + 1, |x| x.powi(5)),
        entropy: curve(LAYERS + 1, |x| 8.0 - 5.0 * x),
        nll: curve(LAYERS + 1, |x| 11.0 - 7.5 * x),
        kl_over_ln_vocab: Vec::new(),
    };
    lens.kl_lens_final[LAYERS] = 0.0;
    lens
}

fn row(rule: Rule, threshold: Option<f64>, value: f64) -> Depth {
    let used = rule.layers_used(value);
    Depth {
        threshold,
        value: Some(value),
        layers_used: Some(used),
        ratio: Some(used / LAYERS as f64),
        interval: Some([value - 1.0, value + 0.5]),
        interval_of: Some(IntervalOf::Value),
        ..Depth::none(rule)
    }
}

/// A row of a rule on the largest effects: its interval is that of the mean and does not hold the value.
pub fn skip_output() -> Depth {
    Depth {
        mean: Some(13.5),
        interval: Some([12.8, 14.1]),
        interval_of: Some(IntervalOf::Mean),
        ..row(Rule::SkipOutput, None, 11.0)
    }
}

fn order() -> Order {
    let effects = |count: usize, most: f64| OrderEffects {
        kl: curve(count, |x| most * (0.1 + (1.0 - x).powi(4))),
        top1_agreement: curve(count, |x| 0.9 - 0.05 * most * (1.0 - x)),
        nll: curve(count, |x| 3.0 + 0.8 * most * (1.0 - x).powi(3)),
    };
    let middle_from: Vec<usize> = (1..LAYERS / 2).collect();
    let middles = middle_from.len();
    Order {
        skip: effects(LAYERS, 2.0),
        swap: effects(LAYERS - 1, 1.0),
        reverse: effects(LAYERS - 2, 3.0),
        middle_from,
        middle_reverse: effects(middles, 7.0),
        middle_repeat: effects(middles, 9.0),
        middle_parallel: effects(middles, 5.0),
    }
}

fn skip() -> SkipSummary {
    let effect = |scale: f64| -> Vec<Vec<f64>> {
        let cell = |s: usize, l: usize| if l > s { scale / (l - s) as f64 } else { 0.0 };
        (0..LAYERS).map(|s| (0..LAYERS).map(|l| cell(s, l)).collect()).collect()
    };
    let layer_effect = OverPrompts { max: effect(1.5), mean: effect(0.5) };
    let output = OverPrompts { max: curve(LAYERS, |x| 1.3 - x), mean: curve(LAYERS, |x| 0.6 - 0.5 * x) };
    let whole = SkipAverage { layer_effect: layer_effect.clone(), output_effect: Some(output) };
    let attn = SkipAverage { layer_effect, output_effect: None };
    SkipSummary::from([
        (SkipMode::Future, [(SkipPart::Layer, whole)].into()),
        (SkipMode::Local, [(SkipPart::Attn, attn)].into()),
    ])
}

/// Token texts, one of which tries to break out of the page.
pub const TOKENS: [&str; 5] = ["2", " +", " ", "\n", "</script><img src=x onerror=alert(1)>"];

fn tokens() -> Vec<String> {
    TOKENS.map(str::to_owned).to_vec()
}

fn erasure(index: usize) -> ErasurePair {
    let effect = |l: usize| (0..TOKENS.len()).map(|t| (LAYERS - l) as f64 / (30 + t) as f64).collect();
    ErasurePair {
        question: format!("{index} + 2 = "),
        answer: (index + 2).to_string(),
        tokens: tokens(),
        effect: (0..=LAYERS).map(effect).collect(),
    }
}

fn gradients() -> GradientsPair {
    let attribution = |l: usize| (0..TOKENS.len()).map(|t| (t as f64 - 2.0) / (l + 1) as f64).collect();
    GradientsPair {
        question: "2 + 2 = ".to_owned(),
        answer: "4".to_owned(),
        tokens: tokens(),
        gradients: Gradients {
            site: GradientSite::Resid,
            baseline: PathBaseline::Sequence,
            quadrature: Quadrature::ADAPTIVE,
            attribution: (0..LAYERS).map(attribution).collect(),
            completeness_error: curve(LAYERS, |x| 0.008 * x),
            interval_error: Some(curve(LAYERS, |x| 0.009 * x)),
            nodes: vec![33; LAYERS],
        },
    }
}

fn uncertainty() -> Uncertainty {
    let rule = |rule: Rule, edges: &[f64], counts: &[u64]| RuleUncertainty {
        rule,
        sweep: vec![
            SweepPoint { threshold: 0.4, value: None, ratio: None, mean: None, interval: None },
            SweepPoint {
                threshold: 0.5,
                value: Some(22.0),
                ratio: Some(0.77),
                mean: None,
                interval: Some([21.0, 24.0]),
            },
        ],
        by_prompts: [(2, 20.0), (32, 21.0)]
            .map(|(prompts, low)| IntervalWidth {
                prompts,
                interval: Some([low, 24.0]),
                width: Some(24.0 - low),
                none_share: 0.1,
            })
            .to_vec(),
        histogram: Some(ResampleHistogram { edges: edges.to_vec(), counts: counts.to_vec(), none: 3 }),
    };
    Uncertainty {
        prompts: 32,
        resamples: 2000,
        seed: 42,
        rules: vec![
            rule(Rule::Kl, &[20.5, 21.5, 22.5, 23.5], &[100, 1700, 197]),
            rule(Rule::Settling, &[23.25, 23.5, 23.75], &[1200, 797]),
        ],
        nll: Some(OutputLoss { value: 3.5, interval: Some([3.25, 3.75]) }),
    }
}

/// A complete `results.json`.
pub fn results() -> Results {
    let angular = |scale: f64| -> Vec<Vec<f64>> {
        let cell = |n: usize, l: usize| scale * (n as f64).sqrt() / (2.0 + l as f64).sqrt() / 6.0;
        (1..=LAYERS).map(|n| (0..=LAYERS - n).map(|l| cell(n, l)).collect()).collect()
    };
    let cost = Work { edits: 0, runs: 48, macs: 123_456_789_012, macs_naive: 987_654_321_098 };
    let resources = Resources { seconds: 12.5, peak_bytes: 734_003_200 };
    let reason = "the mean cosine never changes from negative to positive".to_owned();
    let none = Depth { reason: Some(reason), ..Depth::none(Rule::Cosine) };
    Results {
        objective: None,
        lens: None,
        schema_version: SCHEMA_VERSION,
        model: ModelInfo {
            id: "example/model-135m".to_owned(),
            revision: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            architecture: "llama".to_owned(),
            layers: LAYERS,
            hidden: 576,
            vocab: 49_152,
            parameters: 134_515_008,
            dtype: "float32".to_owned(),
            device: None,
        },
        data: DataInfo { id: "gsm8k".to_owned(), prompts: 32, pairs: 0, tokens: 6_411, failed: Vec::new() },
        probes: ProbeResults {
            contributions: Some(contributions()),
            lens: Some(lens()),
            similarity: Some(Similarity {
                left_out: Vec::new(),
                block_influence: curve(LAYERS, |x| 0.35 * (-7.0 * x).exp() + 0.02 + 0.2 * x.powi(20)),
                angular_last: angular(1.0),
                angular_mean: angular(0.8),
            }),
            experts: None,
            angles: Some(Angles {
                step: curve(LAYERS, |x| 1.2 * (-9.0 * x).exp() + 0.12 + 0.5 * x.powi(20)),
                updates: curve(LAYERS - 1, |x| 1.3 + 0.2 * x),
                to_end: curve(LAYERS, |x| 1.5 - 0.9 * x * x),
                last_layer_nll: curve(LAYERS, |x| 3.0 + 8.0 * (1.0 - x).powi(2)),
                fit: Some(AngleFit { intercept: 0.11, slope: 0.7, r2: 0.64 }),
                components: [(0.6, 1.0), (0.2, 3.0)]
                    .map(|(share, waves): (f64, f64)| AngleComponent {
                        share,
                        weights: curve(LAYERS, |x| 0.25 * (waves * 6.0 * x).cos()),
                    })
                    .into(),
                centre_by_position: curve(64, |x| 5.0 + 9.0 * x.powf(0.2)),
                left_out: 0,
                updates_left_out: 0,
            }),
            settling: Some(Settling {
                mean_settle_layer: 23.4,
                deep_thinking_ratio: 0.37,
                threshold_bits: 0.5,
                deep_layer: 26,
                histogram: (0..=LAYERS as u64).map(|l| l * l * (LAYERS as u64 + 1 - l) / 20).collect(),
            }),
            skip: Some(skip()),
            order: Some(order()),
            erasure: (0..6).map(erasure).collect(),
            gradients: vec![gradients()],
            other: serde_json::Map::new(),
        },
        uncertainty: Some(uncertainty()),
        depth: vec![
            row(Rule::Kl, Some(0.5), 22.0),
            row(Rule::KlLast, Some(0.5), 23.0),
            row(Rule::Overlap, Some(0.3), 22.0),
            none,
            row(Rule::Settling, Some(0.5), 23.4),
        ],
        cost: [("lens".to_owned(), cost)].into(),
        resources: [("lens".to_owned(), resources)].into(),
    }
}

/// A `run.json`.
pub fn run() -> serde_json::Value {
    serde_json::json!({
        "version": "0.1.0",
        "command": ["fathom", "measure", "--probes", "all"],
        "seed": 42,
        "device": "cpu",
        "probes": {"lens": {"top": 5}},
    })
}

/// A made-up fit of the depth law, with everything that a fit can have.
pub fn fitting() -> Fitting {
    let named =
        |pairs: &[(&str, f64)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect::<Named<f64>>();
    let parameter = |value: f64, stderr: Option<f64>| Parameter {
        value,
        stderr,
        interval: stderr.map(|error| [value - 2.0 * error, value + 2.0 * error]),
        ..Parameter::default()
    };
    let scan = |choice: &str, value: &str, rows: usize, chosen: bool| ScanPoint {
        choice: choice.to_owned(),
        value: value.to_owned(),
        rows,
        parameters: Some(named(&[("a_m", 0.9), ("a_l", 1.0 + rows as f64 / 50.0)])),
        objective: Some(0.003),
        converged: true,
        chosen,
    };
    let point = |row: usize| FitPoint {
        row,
        name: (row == 2).then(|| "run <two>".to_owned()),
        observed: 2.0 + 0.1 * row as f64,
        predicted: 2.05 + 0.098 * row as f64,
        dropped: row > 9,
    };
    let fit = Fitted {
        rows: 9,
        dropped: 3,
        objective: FitObjective {
            residual: "squared-log".to_owned(),
            factor: 100.0,
            mean: true,
            value: 0.00302737,
            schedule: "converged".to_owned(),
            converged: true,
            slope: 1e-10,
            ..FitObjective::default()
        },
        parameters: [("a_m", parameter(0.945, Some(0.081))), ("a_l", parameter(1.325, None))]
            .map(|(name, p)| (name.to_owned(), p))
            .into_iter()
            .collect(),
        r2: 0.992,
        starts: Some(Starts { count: 16, agreeing: 15, converged: 16, ..Starts::default() }),
        published: Some(Published {
            source: "arXiv 2602.05970".to_owned(),
            parameters: named(&[("a_m", 0.977), ("a_l", 1.201)]),
            objective: 0.0030578,
            r2: 0.991,
        }),
        heldout: Some(HeldOut {
            share: 0.2,
            repeats: 20,
            rms: 0.0058,
            deviation: 0.0008,
            rms_fitted: 0.0054,
            failed: 0,
        }),
        scan: vec![
            scan("drop", "0", 12, false),
            scan("drop", "3", 9, true),
            scan("drop", "6", 6, false),
            ScanPoint {
                parameters: None,
                objective: None,
                converged: false,
                ..scan("objective", "squared", 9, false)
            },
        ],
        profiles: vec![Profile {
            parameter: "a_l".to_owned(),
            values: vec![1.0, 1.2, 1.4, 1.6],
            objectives: vec![0.0032, 0.00304, 0.00303, f64::NAN],
        }],
        points: (1..=12).map(point).collect(),
        predictions: vec![Prediction {
            inputs: named(&[("params", 7e9), ("layers", 32.0)]),
            derived: named(&[("d_model", 4269.56)]),
            value: 2.034,
            stderr: Some(0.0096),
            interval: Some([2.007, 2.06]),
        }],
        optimal: Some(Optimal {
            inputs: named(&[("params", 7e9)]),
            values: [("layers".to_owned(), parameter(45.5, Some(4.0)))].into_iter().collect(),
            table: OptimalTable {
                headings: ["layers", "loss"].map(str::to_owned).to_vec(),
                rows: vec![vec![32.0, 2.034], vec![45.0, 2.027]],
                best: Some(1),
            },
            note: "The optimum is flat.".to_owned(),
        }),
        ..Fitted::default()
    };
    Fitting {
        schema_version: FIT_SCHEMA_VERSION,
        law: LawName::Depth,
        expression: "L = c_m / m^a_m + ..".to_owned(),
        source: Some("arXiv 2602.05970".to_owned()),
        data: FitData {
            file: "runs.csv".to_owned(),
            sha256: "ab".repeat(32),
            rows: 12,
            columns: [("loss".to_owned(), "val_loss".to_owned())].into(),
            groups: None,
        },
        fit: Some(fit),
        environments: Vec::new(),
        warnings: vec!["only 3 of 16 starts agree".to_owned()],
    }
}

/// A made-up regression.
pub fn regression() -> Fitting {
    let coefficient = |value: f64| Parameter {
        value,
        stderr: Some(0.1),
        interval: Some([value - 0.2, value + 0.2]),
        t: Some(value / 0.1),
        p: Some(0.01),
        log: false,
    };
    let fit = Fitted {
        rows: 3,
        objective: FitObjective {
            residual: "squared".to_owned(),
            schedule: "converged".to_owned(),
            converged: true,
            ..FitObjective::default()
        },
        parameters: [("intercept".to_owned(), coefficient(1.0)), ("layers".to_owned(), coefficient(0.3))]
            .into_iter()
            .collect(),
        r2: 0.85,
        points: (1..=3)
            .map(|row| FitPoint {
                row,
                observed: row as f64,
                predicted: 1.1 * row as f64,
                ..FitPoint::default()
            })
            .collect(),
        regression: Some(Regression {
            adjusted_r2: 0.8,
            freedom: 1,
            deviation: 0.2,
            condition: 7.5,
            vif: [("layers".to_owned(), 1.0)].into_iter().collect(),
            correlation: vec![vec![1.0]],
            partial: vec![PartialResiduals {
                term: "layers".to_owned(),
                of_term: vec![-1.0, 0.0, 1.0],
                of_response: vec![-0.4, 0.1, 0.3],
            }],
        }),
        ..Fitted::default()
    };
    Fitting { law: LawName::Regress, fit: Some(fit), expression: "score ~ layers".to_owned(), ..fitting() }
}

/// Maps between models of 6 and 12 layers whose levels correspond at the same relative depth.
pub fn mapping() -> Mapping {
    let model = |id: &str, layers: usize, hidden: usize| ModelInfo {
        id: id.to_owned(),
        layers,
        hidden,
        ..results().model
    };
    let (source, target) = (model("a/small", 6, 64), model("b/large", 12, 96));
    let text_set = |id: &str, texts: usize| TextSet {
        id: id.to_owned(),
        texts,
        tokens: 100 * texts as u64,
        sha256: "0f".repeat(32),
    };
    let matrix = |of: fn(f64) -> f64| -> Vec<Vec<f64>> {
        (0..=6).map(|m| (0..=12).map(|l| of((l as f64 / 12.0 - m as f64 / 6.0).abs())).collect()).collect()
    };
    Mapping {
        schema_version: MAP_SCHEMA_VERSION,
        source,
        target,
        differences: false,
        fit: text_set("prose, three quarters", 90),
        heldout: text_set("prose, the rest", 30),
        relative: matrix(|apart| 0.3 + 0.6 * apart),
        r2: matrix(|apart| 0.9 - 1.2 * apart),
        mse: matrix(|apart| 2.0 + apart),
        penalty: matrix(|_| 1e-4),
        best: (0..=6).map(|m| Some(2 * m)).collect(),
        best_interval: (0..=6).map(|m| Some([(2 * m) as f64 - 0.5, (2 * m) as f64 + 0.5])).collect(),
        slope: Estimated { value: 1.0, interval: Some([0.96, 1.03]) },
        conclusion: "The best targets have a slope of 1.00.".to_owned(),
        sources: Some(BestSources {
            best: (0..=12).map(|l| Some(l / 2)).collect(),
            best_interval: (0..=12).map(|l| Some([(l / 2) as f64, (l / 2) as f64 + 0.5])).collect(),
            slope: Estimated { value: 0.98, interval: Some([0.95, 1.02]) },
            conclusion: "The best sources have a slope of 0.98.".to_owned(),
        }),
        cost: [("fit", 4_000_000_000), ("measure", 1_000_000_000)]
            .map(|(stage, macs)| (stage.to_owned(), Work::plain(90, macs)))
            .into(),
        resources: [("all".to_owned(), Resources { seconds: 12.0, peak_bytes: 1 << 30 })].into(),
    }
}

/// A model of 6 layers that lesa grew to 8.
pub fn growing() -> Growing {
    let text_set = TextSet { id: "prose".to_owned(), texts: 30, tokens: 3000, sha256: "0f".repeat(32) };
    let estimated = |value: f64| Estimated { value, interval: Some([value - 0.1, value + 0.1]) };
    let measured = |layers: usize, nll: f64| GrowMeasured {
        layers,
        parameters: 1_000_000 * layers as u64,
        nll: estimated(nll),
        perplexity: nll.exp(),
        mean_perplexity: estimated(nll.exp() * 1.2),
        depth: results().depth,
    };
    let layers = (0..8).map(|place| match place {
        0..=3 => LayerOrigin::Copy { layer: place },
        4 => LayerOrigin::Predicted { layers: [3, 4] },
        5 => LayerOrigin::Copy { layer: 4 },
        6 => LayerOrigin::Predicted { layers: [4, 5] },
        _ => LayerOrigin::Copy { layer: 5 },
    });
    Growing {
        schema_version: GROW_SCHEMA_VERSION,
        model: ModelInfo { layers: 6, ..results().model },
        method: GrowMethod::Lesa,
        layers: layers.collect(),
        heldout: text_set,
        before: measured(6, 3.0),
        after: measured(8, 3.4),
        nll_increase: estimated(0.4),
        largest_logit_difference: None,
        networks: vec![GrowNetwork {
            matrix: ".mlp.down_proj.weight".to_owned(),
            shape: [64, 192],
            rank: 64,
            rows: 256,
            loss: vec![4e-3, 3e-3, 2.5e-3],
            mse: 2.4e-3,
            mse_copy: 5e-3,
            mse_mean: 3.5e-3,
        }],
        path: "grown".to_owned(),
        bytes: 12_345_678,
        sha256: vec!["ab".repeat(32)],
        conclusion: "2 layers more raise the loss by 0.400 nats per token.".to_owned(),
        cost: [("train", 5_000_000_000), ("measure", 2_000_000_000)]
            .map(|(stage, macs)| (stage.to_owned(), Work::plain(30, macs)))
            .into(),
        resources: [("all".to_owned(), Resources { seconds: 12.0, peak_bytes: 1 << 30 })].into(),
    }
}

/// Early exits of a model with 6 layers.
pub fn exiting() -> Exiting {
    const DEPTH: usize = 6;
    let text_set = |id: &str, texts: usize| TextSet {
        id: id.to_owned(),
        texts,
        tokens: 100 * texts as u64,
        sha256: "0f".repeat(32),
    };
    let around = |value: f64| Estimated { value, interval: Some([value - 0.02, value + 0.02]) };
    let pairs = || ExitHead::ALL.into_iter().flat_map(|head| (0..DEPTH).map(move |level| (head, level)));
    let better = |head: ExitHead| if head == ExitHead::Linear { 0.2 } else { 0.0 };
    let share = move |(head, level): (ExitHead, usize)| 0.7 * level as f64 / DEPTH as f64 + better(head);
    let rule = |epsilon: f64| ExitRule {
        head: ExitHead::Linear,
        confidence: Confidence::Prob,
        levels: vec![2, 4],
        epsilon,
        delta: 0.1,
        threshold: Some(0.9),
        measured: Some(ExitMeasured {
            p_value: 0.04,
            risk_calibration: 0.6 * epsilon,
            risk_heldout: around(0.7 * epsilon),
            mean_level: 4.6,
            shares: vec![0.0, 0.0, 0.2, 0.0, 0.3, 0.0, 0.5],
            nll: 3.4,
            net_saving: around(epsilon - 0.05),
        }),
    };
    let speculation = |place: (ExitHead, usize)| Speculation {
        level: place.1,
        head: place.0,
        cost_ratio: place.1 as f64 / DEPTH as f64,
        alpha: share(place),
        draft: 2,
        speedup: around(0.9 + 0.1 * share(place)),
        greedy_draft: 2,
        greedy_speedup: around(0.95 + 0.1 * share(place)),
        runs: vec![0.5, 0.25, 0.25],
    };
    Exiting {
        schema_version: EXIT_SCHEMA_VERSION,
        model: ModelInfo { layers: DEPTH, ..results().model },
        fit: text_set("prose, a quarter", 30),
        calibration: text_set("prose, three eighths", 45),
        heldout: text_set("prose, the rest", 45),
        epsilon: 0.1,
        delta: 0.1,
        full_nll: around(3.2),
        costs: ExitCosts { layers: vec![4e6; DEPTH], key_values: vec![3e5; DEPTH], head: 3e7, map: 3e5 },
        levels: pairs()
            .map(|place| ExitLevel {
                level: place.1,
                head: place.0,
                agreement: share(place),
                nll: 8.0 - 4.0 * share(place),
                acceptance: share(place),
                penalty: (place.0 == ExitHead::Linear).then_some(1e-4),
                map_error: (place.0 == ExitHead::Linear).then_some(0.3),
            })
            .collect(),
        rules: vec![rule(0.1), ExitRule { threshold: None, measured: None, ..rule(0.1) }],
        by_epsilon: [0.05, 0.1, 0.2].map(|epsilon| EpsilonRule { epsilon, rule: Some(rule(epsilon)) }).into(),
        speculation: pairs().filter(|place| place.1 > 0).map(speculation).collect(),
        choice: ExitChoice {
            rule: Some(0),
            speculation: Some(2),
            pays: true,
            reason: "Leave at levels 2 and 4 of 6 by the linear head.".to_owned(),
        },
        example: Some(ExitExample {
            id: "prose-7".to_owned(),
            pieces: ["The", " river", " <b>"].map(str::to_owned).to_vec(),
            levels: vec![6, 2, 4],
            agrees: vec![true, false, true],
            confidence: (0..DEPTH).map(|l| vec![0.1 * l as f64, 0.95, 0.2 * l as f64]).collect(),
        }),
        cost: [("fit", 4_000_000_000), ("measure", 9_000_000_000)]
            .map(|(stage, macs)| (stage.to_owned(), Work::plain(120, macs)))
            .into(),
        resources: Default::default(),
    }
}
