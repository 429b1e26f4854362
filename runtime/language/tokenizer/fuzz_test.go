package tokenizer

import "testing"

// Whatever a tokenizer.json says, it is refused or used, and never a panic.
func FuzzParse(f *testing.F) {
	for _, rest := range []string{
		`"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"}`,
		`"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
		 "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1}]}`,
		`"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "\\s+(?!\\S)|[\\s\\d]"}},
		 {"type": "Digits"}, {"type": "Metaspace", "replacement": "▁"}]}, "decoder": {"type": "Metaspace", "replacement": "▁"}`,
		`"added_tokens": [{"id": 3, "content": "x", "lstrip": true, "rstrip": true}], "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
		 "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {}}], "special_tokens": {"x": {"ids": [3]}}}`,
	} {
		f.Add([]byte(`{"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "unk_token": "a"}, `+rest+`}`), "ab 1 x naïve\n")
	}
	f.Fuzz(func(t *testing.T, file []byte, text string) {
		tokenizer, err := Parse(file)
		if err == nil {
			tokenizer.Decode(tokenizer.Encode(text))
		}
	})
}
