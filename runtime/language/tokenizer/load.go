package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// file is the part of a tokenizer.json that matters for encoding and
// decoding one text.
type file struct {
	AddedTokens   []addedToken `json:"added_tokens"`
	Normalizer    *component   `json:"normalizer"`
	PreTokenizer  *component   `json:"pre_tokenizer"`
	PostProcessor *component   `json:"post_processor"`
	Decoder       *component   `json:"decoder"`
	Model         model        `json:"model"`
}

// component is a normalizer, pre-tokenizer, post-processor or decoder. Type
// says which of the other fields it has.
type component struct {
	Type          string      `json:"type"`
	Normalizers   []component `json:"normalizers"`
	PreTokenizers []component `json:"pretokenizers"`
	Processors    []component `json:"processors"`
	Decoders      []component `json:"decoders"`

	Pattern  *patternSpec `json:"pattern"`
	Content  string       `json:"content"`
	Behavior string       `json:"behavior"`
	Invert   bool         `json:"invert"`

	Prepend          string `json:"prepend"`
	Replacement      string `json:"replacement"`
	PrependScheme    string `json:"prepend_scheme"`
	AddPrefixSpace   *bool  `json:"add_prefix_space"`
	UseRegex         *bool  `json:"use_regex"`
	Split            *bool  `json:"split"`
	IndividualDigits bool   `json:"individual_digits"`

	StripLeft  bool   `json:"strip_left"`
	StripRight bool   `json:"strip_right"`
	Start      int    `json:"start"`
	Stop       int    `json:"stop"`
	Suffix     string `json:"suffix"`

	Single        []templatePiece            `json:"single"`
	SpecialTokens map[string]templateSpecial `json:"special_tokens"`
}

// is reports whether a flag is set, or unset with a default of true.
func is(flag *bool) bool { return flag == nil || *flag }

type patternSpec struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

type templatePiece struct {
	SpecialToken *struct {
		ID string `json:"id"`
	} `json:"SpecialToken"`
	Sequence *struct{} `json:"Sequence"`
}

type templateSpecial struct {
	IDs []int `json:"ids"`
}

type model struct {
	Type             string         `json:"type"`
	Vocabulary       map[string]int `json:"vocab"`
	Merges           []merge        `json:"merges"`
	Unknown          *string        `json:"unk_token"`
	FuseUnknown      bool           `json:"fuse_unk"`
	ByteFallback     bool           `json:"byte_fallback"`
	IgnoreMerges     bool           `json:"ignore_merges"`
	ContinuingPrefix string         `json:"continuing_subword_prefix"`
	WordSuffix       string         `json:"end_of_word_suffix"`
}

// merge is a pair of tokens that become one, written "a b" or ["a", "b"].
type merge [2]string

// UnmarshalJSON implements [json.Unmarshaler].
func (m *merge) UnmarshalJSON(data []byte) error {
	var pair []string
	if data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		pair = strings.Split(s, " ")
	} else if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	if len(pair) != 2 {
		return fmt.Errorf("merge %s is not a pair", data)
	}
	*m = merge{pair[0], pair[1]}
	return nil
}

// Parse reads the content of a tokenizer.json. It refuses, by name, whatever
// it would not treat as Hugging Face's library does.
func Parse(data []byte) (*BPE, error) {
	var kind struct {
		Model struct{ Type string } `json:"model"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return nil, err
	}
	if t := kind.Model.Type; t != "" && t != "BPE" {
		return nil, fmt.Errorf("its model is of type %s; only BPE is supported", t)
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	t := &BPE{}
	var errs [6]error
	errs[0] = t.setModel(f.Model)
	errs[1] = t.setAddedTokens(f.AddedTokens)
	t.normalize, errs[2] = newNormalizer(f.Normalizer)
	t.split, errs[3] = newSplitter(f.PreTokenizer)
	t.template, errs[4] = newTemplate(f.PostProcessor)
	t.join, errs[5] = newJoiner(f.Decoder)
	return t, errors.Join(errs[:]...)
}
