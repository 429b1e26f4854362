package data_test

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/fmoe-go/fmoe/runtime/tensor"
	"github.com/fmoe-go/fmoe/runtime/train/data"
)

// Make batches of a text, its last tenth held out, save the position, and go on
// from there.
func Example() {
	dir, err := os.MkdirTemp("", "data")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "book.txt")
	if err := os.WriteFile(path, []byte("The Rays which differ in Refrangibility differ also in Colour."), 0o644); err != nil {
		log.Fatal(err)
	}

	book, err := data.Open(path, data.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer book.Close()
	training, heldOut, err := data.Split(book, 0.1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(data.Tokens(training), "tokens to train on,", data.Tokens(heldOut), "held out")

	examples, err := data.Causal(training, 8)
	if err != nil {
		log.Fatal(err)
	}
	options := data.LoaderOptions{Batch: 2, Shuffle: true, Seed: 1}
	loader, err := data.NewLoader(examples, options)
	if err != nil {
		log.Fatal(err)
	}
	show := func(b *data.Batch) {
		for row := range b.Rows {
			input, label := "", ""
			for i := row * 8; i < (row+1)*8; i++ {
				if l := tensor.Of[int64](b.Arrays[data.Labels])[i]; l != data.Ignore {
					input += string(rune(tensor.Of[int64](b.Arrays[data.InputIDs])[i]))
					label += string(rune(l))
				}
			}
			fmt.Printf("%q → %q\n", input, label)
		}
	}
	first, err := loader.Next()
	if err != nil {
		log.Fatal(err)
	}
	show(first)
	saved, _ := json.Marshal(loader.Position())

	var position data.Position
	if err := json.Unmarshal(saved, &position); err != nil {
		log.Fatal(err)
	}
	resumed, err := data.NewLoader(examples, options)
	if err != nil {
		log.Fatal(err)
	}
	if err := resumed.Seek(position); err != nil {
		log.Fatal(err)
	}
	second, err := resumed.Next()
	if err != nil {
		log.Fatal(err)
	}
	show(second)

	// Output:
	// 56 tokens to train on, 6 held out
	// "ibility " → "bility d"
	// " Refrang" → "Refrangi"
	// "iffer in" → "ffer in "
	// "differ a" → "iffer al"
}
