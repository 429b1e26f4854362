package devicetest

// exceptions are ONNX cases that no runtime can be held to, with the reason.
var exceptions = map[string]string{
	"test_bernoulli":                     "the expected output is one draw of NumPy's generator",
	"test_bernoulli_double":              "the expected output is one draw of NumPy's generator",
	"test_bernoulli_double_expanded":     "the expected output is one draw of NumPy's generator",
	"test_bernoulli_expanded":            "the expected output is one draw of NumPy's generator",
	"test_bernoulli_seed":                "the expected output is one draw of NumPy's generator",
	"test_bernoulli_seed_expanded":       "the expected output is one draw of NumPy's generator",
	"test_training_dropout":              "the expected mask is one draw of NumPy's generator",
	"test_training_dropout_default":      "the expected mask is one draw of NumPy's generator",
	"test_training_dropout_default_mask": "the expected mask is one draw of NumPy's generator",
	"test_training_dropout_mask":         "the expected mask is one draw of NumPy's generator",
}

// Exception returns why a case's outcome says nothing, "" where it counts.
func Exception(c Case) string { return exceptions[c.Name] }
