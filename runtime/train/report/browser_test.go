package report

import (
	"bytes"
	"encoding/json"
	"html"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// look is a script that tells what a browser makes of a page: how large its
// pictures are on the screen, how long their lines, which colours their cells
// have, and what is shown under the pointer.
const look = `<script>
const hover = (svg) => {
  const { left, top, width, height } = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", { clientX: left + width * .6, clientY: top + height * .4 }));
  const tip = document.querySelector("#tip");
  return getComputedStyle(tip).display === "block" ? tip.textContent : "";
};
const seen = [...document.querySelectorAll("svg.picture")].map((svg) => ({
  name: svg.getAttribute("aria-label"),
  width: svg.getBoundingClientRect().width,
  lines: [...svg.querySelectorAll(".line, .dots, .band")].map((p) => p.getTotalLength()),
  cells: [...svg.querySelectorAll(".cells path")].map((p) => p.getAttribute("d").split("M").length - 1).reduce((a, b) => a + b, 0),
  colours: new Set([...svg.querySelectorAll(".cells path")].map((p) => getComputedStyle(p).stroke).filter((c) => c.startsWith("rgb"))).size,
  tip: hover(svg),
}));
const wide = document.documentElement.scrollWidth > innerWidth;
document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify({ seen, wide }) }));
</script>`

// TestBrowser opens a page in headless Chromium, without a network.
func TestBrowser(t *testing.T) {
	chromium := findChromium(t)
	_, page := newPage(t, 300, 8, 8, 8, 8, 8, 8)
	path := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(path, []byte(strings.Replace(page, "</body>", look+"</body>", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900",
		"--user-data-dir="+t.TempDir(), "--enable-logging=stderr", "--dump-dom", (&url.URL{Scheme: "file", Path: path}).String())
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	for _, line := range strings.Split(stderr.String(), "\n") {
		if strings.Contains(line, "CONSOLE") {
			t.Errorf("the console has %s", line)
		}
	}
	_, text, _ := strings.Cut(stdout.String(), `<pre id="seen">`)
	text, _, _ = strings.Cut(text, "</pre>")
	var result struct {
		Seen []struct {
			Name           string
			Width          float64
			Lines          []float64
			Cells, Colours int
			Tip            string
		}
		Wide bool
	}
	if err := json.Unmarshal([]byte(html.UnescapeString(text)), &result); err != nil {
		t.Fatalf("%v in %q of\n%.500s", err, text, &stdout)
	}
	lines, maps := 0, 0
	for _, p := range result.Seen {
		if p.Width < 400 || p.Tip == "" {
			t.Errorf("%s is %v wide and shows %q under the pointer", p.Name, p.Width, p.Tip)
		}
		if p.Cells > 0 {
			maps++
			if p.Cells != 6*8 && p.Cells != 8*75 || p.Colours < 5 || !strings.Contains(p.Tip, "expert ") {
				t.Errorf("%s has %d cells in %d colours and shows %q", p.Name, p.Cells, p.Colours, p.Tip)
			}
			continue
		}
		lines++
		if len(p.Lines) == 0 || !strings.HasPrefix(p.Tip, "step ") {
			t.Errorf("%s has no lines, or shows %q", p.Name, p.Tip)
		}
		for _, length := range p.Lines {
			if length < 100 && !strings.HasPrefix(p.Name, "Loss") { // whose dots have no length
				t.Errorf("%s has a line of length %v", p.Name, length)
			}
		}
	}
	if lines != 9 || maps != 1+6 || result.Wide {
		t.Errorf("%d plots of lines and %d heat maps, wider than the window: %v", lines, maps, result.Wide)
	}
}

// findChromium returns a browser of the kind that can print a page.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("there is no Chromium; Debian's package chromium has it")
	return ""
}
