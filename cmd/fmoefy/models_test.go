package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/fmoe-go/fmoe/internal/cli"
)

// TestExperts: the sample GPT becomes two experts beside a copy of itself, with
// a router from prompts.
func TestExperts(t *testing.T) {
	dir := t.TempDir()
	prompts, out := filepath.Join(dir, "prompts.txt"), filepath.Join(dir, "moe.onnx")
	if err := os.WriteFile(prompts, []byte("0 func main() {\n1 The rays of light\n2 # Title\n2 ## Another\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	var result rewriteResult
	succeed(t, &result, gpt, "-o", out, "--expert", "0="+gpt, "--expert", "2="+gpt, "--rest", "average", "--prompts", prompts, "--prompts-contrast", "--json")
	if result.NumExperts != 3 || result.Init != "models" || !strings.Contains(result.Why, "the rest is their average") {
		t.Errorf("got %+v", result.Report)
	}
	if layers := describe(t, out).Layers; len(layers) != 6 || layers[0].Experts != 3 {
		t.Errorf("the file has the layers %+v", layers)
	}

	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"another model", []string{"--expert", "1=" + bert}, "the model for expert 1, " + bert + ": block 0"},
		{"no file", []string{"--expert", "1=" + dir + "/missing.onnx"}, "missing.onnx"},
		{"prompts of others", []string{"--num-experts", "2", "--prompts", prompts}, "prompts for 3 experts"},
		{"no prompts", []string{"--num-experts", "2", "--prompts", dir + "/missing.txt"}, "missing.txt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, stdout, stderr := execute(t, append([]string{gpt, "-o", filepath.Join(dir, "out.onnx")}, test.args...)...)
			if code != cli.Failure || stdout != "" || !strings.Contains(stderr, test.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, stdout %q, stderr %q, want one line with %q", code, stdout, stderr, test.want)
			}
		})
	}
}

func TestReadPrompts(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       [][]string
		message    string
	}{
		{"lines", "0 a b\n\n1  c\n 0 d\r\n", [][]string{{"a b", "d"}, {"c"}}, ""},
		{"JSON lines", `{"expert": 1, "prompt": "a\nb"}` + "\n" + `{"prompt": "1 c", "expert": 0}`, [][]string{{"1 c"}, {"a\nb"}}, ""},
		{"nothing", "\n", nil, "there is no prompt"},
		{"no number", "0 a\nb c", nil, "line 2: it is not an expert's number and a prompt"},
		{"no text", "0", nil, "line 1: it is not"},
		{"negative", "-1 a", nil, "line 1: expert -1, must be 0 to 65535"},
		{"gap", "0 a\n2 b", nil, "expert 1 has no prompt"},
		{"no expert", `{"prompt": "a"}`, nil, "line 1: it is not"},
		{"unknown field", `{"expert": 0, "prompt": "a", "negative": "b"}`, nil, "line 1: it is not"},
		{"mixed", `{"expert": 0, "prompt": "a"}` + "\n1 b", nil, "line 2: it is not"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "prompts")
			if err := os.WriteFile(path, []byte(test.text), 0o666); err != nil {
				t.Fatal(err)
			}
			got, err := readPrompts(path)
			if test.message != "" {
				if err == nil || !strings.Contains(err.Error(), test.message) {
					t.Errorf("got %v, want %q", err, test.message)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}
