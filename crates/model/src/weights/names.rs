//! Names of tensors: without the prefixes of wrappers, and the most similar to a missing one.

/// Parts of a name that torch.compile, FSDP and activation checkpointing insert between a module and its
/// child.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// The prefix that DataParallel and similar wrappers add to all names.
const PARALLEL: &str = "module.";

/// A name without the parts that wrappers of the model add.
pub(super) fn canonical(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = name
        .strip_prefix(PARALLEL)
        .or_else(|| WRAPPERS.iter().find_map(|wrapper| name.strip_prefix(wrapper)?.strip_prefix('.')))
    {
        name = rest;
    }
    let kept: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    let name = kept.join(".");
    // The first files of BERT name the parameters of norms as TensorFlow did.
    for (old, new) in [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")] {
        if let Some(module) = name.strip_suffix(old) {
            return format!("{module}{new}");
        }
    }
    name
}

/// Maximum number of names that a message suggests.
const SHOWN: usize = 3;

/// The names that share the longest suffix with a missing one.
pub(super) fn nearest<'a>(missing: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let shared = |name: &str| name.rsplit('.').zip(missing.rsplit('.')).take_while(|(a, b)| a == b).count();
    let mut names: Vec<(usize, &str)> = names.map(|name| (shared(name), name)).collect();
    names.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    names.into_iter().take(SHOWN).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_stripped() {
        for (name, bare) in [
            ("_orig_mod.model.norm.weight", "model.norm.weight"),
            ("module.model.norm.weight", "model.norm.weight"),
            ("module._orig_mod.module.lm_head.weight", "lm_head.weight"),
            ("model.layers.0._orig_mod.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
            ("_fsdp_wrapped_module.model.layers.1._checkpoint_wrapped_module.x", "model.layers.1.x"),
            ("transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_attn.bias"),
            ("bert.embeddings.LayerNorm.gamma", "bert.embeddings.LayerNorm.weight"),
            ("bert.embeddings.LayerNorm.beta", "bert.embeddings.LayerNorm.bias"),
            // Similar to a wrapper's name, but not one.
            ("modules.0.weight", "modules.0.weight"),
        ] {
            assert_eq!(canonical(name), bare);
        }
    }

    #[test]
    fn the_nearest_names_share_their_end() {
        let names = ["a.b.norm.weight", "model.layers.0.attn.q.weight", "z.attn.q.weight", "attn.q.bias"];
        let nearest = nearest("layers.0.attn.q.weight", names.into_iter());
        assert_eq!(nearest, ["model.layers.0.attn.q.weight", "z.attn.q.weight", "a.b.norm.weight"]);
    }
}
