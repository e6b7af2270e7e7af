//! A tokenizer of a GGUF file as the files of Hugging Face.

use super::{Policy, Tokenizer};
use crate::error::{Error, Result};
use crate::gguf::{Header, Value as Metadata};
use serde_json::{Map, Value, json};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};

impl Tokenizer {
    /// `tokenizer.json` and `tokenizer_config.json`, by name.
    ///
    /// # Errors
    /// When the `tokenizers` crate cannot write the tokenizer.
    pub(crate) fn hugging_face_files(&self, header: &Header) -> Result<Vec<(&'static str, String)>> {
        let fail = |e: String| {
            Error::tokenizer(&self.path, format!("its tokenizer cannot be written as tokenizer.json ({e})"))
        };
        let mut inner = self.inner.clone();
        if let Policy::Around(before, after) = self.policy
            && (before.is_some() || after.is_some())
        {
            inner.with_post_processor(Some(self.around(before, after).map_err(fail)?));
        }
        let tokenizer = inner.to_string(true).map_err(|e| fail(e.to_string()))?;
        let config = serde_json::to_string_pretty(&self.config(header)).map_err(|e| fail(e.to_string()))?;
        Ok(vec![("tokenizer.json", tokenizer), ("tokenizer_config.json", config)])
    }

    /// The post-processor that adds these tokens around a text.
    fn around(
        &self,
        before: Option<u32>,
        after: Option<u32>,
    ) -> std::result::Result<TemplateProcessing, String> {
        let token = |id: Option<u32>| {
            id.map(|id| self.inner.id_to_token(id).map(|text| (text, id)).ok_or("a token without a text"))
        };
        let (before, after) = (token(before).transpose()?, token(after).transpose()?);
        let text = |token: &Option<(String, u32)>| token.iter().map(|t| t.0.clone()).collect::<Vec<_>>();
        let single = [text(&before), vec!["$A".to_owned()], text(&after)].concat();
        let mut special: Vec<SpecialToken> = Vec::new();
        for (text, id) in before.into_iter().chain(after) {
            special.push(SpecialToken::from((text, id)));
        }
        let mut builder = TemplateProcessing::builder();
        builder.try_single(single).map_err(|e| e.to_string())?;
        builder.special_tokens(special).build().map_err(|e| e.to_string())
    }

    /// The named tokens and the chat template.
    fn config(&self, header: &Header) -> Value {
        let get = |key: &str| header.get(&format!("tokenizer.{key}"));
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
        let named =
            [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")];
        for (name, key) in named {
            let id = get(&format!("ggml.{key}_token_id")).and_then(Metadata::as_usize);
            let text = id.and_then(|id| u32::try_from(id).ok()).and_then(|id| self.inner.id_to_token(id));
            if let Some(text) = text {
                config.insert(name.into(), json!(text));
            }
        }
        config.insert("clean_up_tokenization_spaces".into(), json!(false));
        if let Some(template) = get("chat_template").and_then(Metadata::as_str) {
            config.insert("chat_template".into(), json!(template));
        }
        Value::Object(config)
    }
}
