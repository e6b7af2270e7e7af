//! Tokenizers: `tokenizer.json`, or the metadata of a GGUF file.
