//! Settings of tokenizers.

use super::*;

#[test]
fn tok_added_only_in_config() {
    let folder = Folder::of("qwen2");
    let mut removed = json!(null);
    folder.edit("tokenizer.json", |file| {
        let list = file["added_tokens"].as_array_mut().unwrap();
        let at = list.iter().position(|t| t["content"] == "<|im_start|>").unwrap();
        removed = list.remove(at);
    });
    let ids = |folder: &Folder| {
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let warnings: Vec<String> = checkpoint.warnings().map(str::to_owned).collect();
        (checkpoint.tokenizer().encode("<|im_start|>user<|im_end|>").unwrap(), warnings)
    };
    let whole = ids(&Folder::of("qwen2"));
    let lacking = ids(&folder);
    assert!(lacking.0.len() > whole.0.len(), "{:?} against {:?}", lacking.0, whole.0);
    // The ids of tokens behind the missing one are not what the file says.
    assert!(lacking.1.iter().any(|w| w.contains("'<|im_end|>'")), "{:?}", lacking.1);
    folder.edit("tokenizer_config.json", |config| {
        config["added_tokens_decoder"] = json!({removed["id"].to_string(): removed});
    });
    assert_eq!(ids(&folder), whole);
}

#[test]
fn tok_settings_of_the_configuration() {
    let folder = Folder::of("llama2");
    folder.edit("tokenizer_config.json", |config| {
        config["extra_special_tokens"] = json!({"image_token": "<X>"});
        config["split_special_tokens"] = json!(true);
    });
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tokenizer().encode("<X>").unwrap().len(), 2);
    assert!(checkpoint.warnings().any(|w| w.contains("'split_special_tokens'")));
    // Merges that are dropped at random would give other tokens each time.
    let folder = Folder::of("qwen2");
    let text = "the keeper of the lighthouse had not spoken";
    let whole = Checkpoint::open(folder.path()).unwrap().tokenizer().encode(text).unwrap();
    folder.edit("tokenizer.json", |file| file["model"]["dropout"] = json!(0.5));
    folder.edit("tokenizer_config.json", |config| config["add_prefix_space"] = json!(true));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tokenizer().encode(text).unwrap(), whole);
    assert!(checkpoint.warnings().any(|w| w.contains("'add_prefix_space'")));
}
