//! Files and folders of Hugging Face checkpoints.

use super::*;

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258\nsize 134\n";

#[test]
fn hf_lfs_pointers() {
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        let folder = Folder::of("llama3");
        std::fs::write(folder.path().join(file), POINTER).unwrap();
        refused(folder.path(), &[file, "Git LFS pointer", "git lfs pull"]);
    }
    let folder = Folder::of("llama3");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("pytorch_model.bin"), POINTER).unwrap();
    refused(folder.path(), &["pytorch_model.bin", "Git LFS pointer"]);
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, POINTER).unwrap();
    refused(&path, &["m.gguf", "Git LFS pointer"]);
}

#[test]
fn hf_adapters() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("adapter_config.json"), r#"{"base_model_name_or_path": "org/base"}"#)
        .unwrap();
    refused(folder.path(), &["adapter_config.json", "adapter to org/base", "merge"]);
}

#[test]
fn hf_files_without_an_extension() {
    let folder = Folder::of("llama3");
    let plain = run(folder.path());
    let blob = folder.path().join("4f8a2");
    std::fs::rename(folder.path().join("model.safetensors"), &blob).unwrap();
    same(&run(&blob), &plain);
    std::fs::write(&blob, "some text").unwrap();
    refused(&blob, &["4f8a2", "GGUF, safetensors or PyTorch"]);
}
