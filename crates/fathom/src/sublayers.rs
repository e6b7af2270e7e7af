//! Layers that lack one of the two sublayers.

use fathom_model::Config;
use fathom_results::{GradientSite, SkipPart};

/// Why a part of layers cannot be removed or bypassed, where some layer does not have it.
pub(crate) fn lacking(config: &Config, part: SkipPart) -> Option<String> {
    match part {
        SkipPart::Layer => None,
        SkipPart::Attn => without(config, "attn", "layer"),
        SkipPart::Mlp => without(config, "mlp", "layer"),
    }
}

/// As [`lacking`], for where gradients are taken.
pub(crate) fn lacking_at(config: &Config, site: GradientSite) -> Option<String> {
    match site {
        GradientSite::Resid => None,
        GradientSite::Attn => without(config, "attn", "resid"),
        GradientSite::Mlp => without(config, "mlp", "resid"),
    }
}

/// What to use instead of a part that layers lack.
fn without(config: &Config, part: &str, instead: &str) -> Option<String> {
    let mlp = part == "mlp";
    let has = |l: &usize| if mlp { config.has_mlp(*l) } else { config.has_mixer(*l) };
    let what = if mlp { "have no MLP" } else { "do not mix positions" };
    let which = match (0..config.depth()).filter(|l| !has(l)).count() {
        0 => return None,
        all if all == config.depth() => format!("the layers of this model {what}"),
        some => format!("{some} of the {} layers of this model {what}", config.depth()),
    };
    Some(format!("{which}, so '{part}' is not there to be measured; use '{instead}'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_model::source::Checkpoint;
    use std::path::Path;

    #[test]
    fn layers_without_mlp_are_counted() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let of = |name: &str| Checkpoint::open(&fixtures.join(name)).unwrap().config().clone();
        let mamba = of("mamba2");
        let says = lacking(&mamba, SkipPart::Mlp).unwrap();
        assert_eq!(
            says,
            "the layers of this model have no MLP, so 'mlp' is not there to be measured; use 'layer'"
        );
        assert!(lacking_at(&mamba, GradientSite::Mlp).unwrap().ends_with("use 'resid'"));
        assert_eq!(lacking(&mamba, SkipPart::Attn), None);
        assert_eq!(lacking(&of("llama2"), SkipPart::Mlp), None);
    }
}
