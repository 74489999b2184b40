package httpapi

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func zipped(t testing.TB, text string) string {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func unzipped(t testing.TB, from io.Reader) string {
	t.Helper()
	z, err := gzip.NewReader(from)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const asGzip = "Content-Encoding: gzip"

func TestAnswersAreCompressedForClientsThatTakeIt(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{rows: 5000} })
	for _, target := range []string{"/v1/usage?group_by=model", "/v1/usage?group_by=model&format=csv"} {
		plain := do(a, "GET", target, "")
		if plain.Header().Get("Content-Encoding") != "" || plain.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: %v", target, plain.Header())
		}
		for accept, want := range map[string]bool{
			"gzip": true, "br, GZIP;q=0.5": true, "deflate, gzip ; q=1.0, *;q=0": true, "*": true, "x-gzip": true, "br;q=1, *;q=0.1": true,
			"": false, "br": false, "gzip;q=0": false, "gzip; q=0.000, *": false, "*;q=0": false, "gzip;q=much": false, "identity": false,
		} {
			w := do(a, "GET", target, "", "Accept-Encoding: "+accept)
			if got := w.Header().Get("Content-Encoding") == "gzip"; got != want || w.Header().Get("Vary") != "Accept-Encoding" {
				t.Errorf("%s, Accept-Encoding %q: %v", target, accept, w.Header())
				continue
			}
			text := w.Body.String()
			if want {
				if short := w.Body.Len(); short > plain.Body.Len()/4 {
					t.Errorf("%s: %d bytes became %d", target, plain.Body.Len(), short)
				}
				text = unzipped(t, w.Body)
			}
			if text != plain.Body.String() {
				t.Errorf("%s, Accept-Encoding %q: another text", target, accept)
			}
		}
	}
	if w := do(a, "GET", "/healthz", "", "Accept-Encoding: gzip"); w.Header().Get("Content-Encoding") != "" || w.Header().Get("Vary") != "" {
		t.Errorf("a short answer: %v", w.Header())
	}
}

func TestACompressedCSVThatFailsHalfwayNeverLooksWhole(t *testing.T) {
	a, _ := newAPI(t, func(c *Config) { c.Reader = &failingReader{rows: 50_000, after: errors.New("connection lost")} })
	s := httptest.NewServer(a)
	defer s.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v1/usage?group_by=model&format=csv", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "gzip")
	answer, err := s.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	sent, err := io.ReadAll(answer.Body)
	if err == nil || answer.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("the connection ended as if all were there: %v", answer.Header)
	}
	wantNoEnd(t, bytes.NewReader(sent))

	// Nor does what the server would still have sent.
	w := httptest.NewRecorder()
	func() {
		defer func() {
			if reason := recover(); reason != http.ErrAbortHandler {
				t.Errorf("the connection isn't cut: %v", reason)
			}
		}()
		request := httptest.NewRequest("GET", "/v1/usage?group_by=model&format=csv", http.NoBody)
		request.Host = "127.0.0.1:4180"
		request.Header.Set("Accept-Encoding", "gzip")
		a.ServeHTTP(w, request)
	}()
	wantNoEnd(t, w.Body)
}

func wantNoEnd(t *testing.T, sent io.Reader) {
	t.Helper()
	z, err := gzip.NewReader(sent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, z); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("what was sent is a whole stream: %v", err)
	}
}

func TestACompressedBodyIsRecordedLikeAPlainOne(t *testing.T) {
	for body, media := range map[string]string{
		plain: asJSON, "[" + plain + strings.Repeat(","+plain, 999) + "]": asJSON, strings.Repeat(plain+"\n", 700): asNDJSON,
	} {
		for _, encoding := range []string{asGzip, "Content-Encoding: GZip", "Content-Encoding: x-gzip"} {
			a, recorder := newAPI(t, nil)
			w := do(a, "POST", "/v1/updates", zipped(t, body), media, encoding)
			if want := strings.Count(body, plain); w.Code != http.StatusAccepted || recorder.recorded() != want {
				t.Errorf("%s: %d %.200s; %d of %d recorded", encoding, w.Code, w.Body, recorder.recorded(), want)
			}
			if held := a.bodies.inUse(); held != 0 {
				t.Errorf("%d bytes stay taken", held)
			}
		}
	}
}

func TestTheBoundOfABodyIsOfWhatItInflatesTo(t *testing.T) {
	const limit = 256 << 10
	padded := func(n int) string { return plain + strings.Repeat(" ", n-len(plain)) }
	a, recorder := newAPI(t, func(c *Config) {
		c.MaxBodyBytes = limit
		c.MaxBodiesBytes = 2 * (limit + inflaterBytes) // half of it for one caller: not a body more
	})
	if w := do(a, "POST", "/v1/updates", zipped(t, padded(limit)), asJSON, asGzip); w.Code != http.StatusAccepted {
		t.Errorf("a body as long as allowed: %d %s", w.Code, w.Body)
	}
	for _, n := range []int{limit + 1, 2 * limit, 64 << 20} {
		body := zipped(t, padded(n))
		if n < 64<<20 && len(body) > limit/100 {
			t.Fatalf("%d bytes sent", len(body))
		}
		wantProblem(t, do(a, "POST", "/v1/updates", body, asJSON, asGzip), contentTooLarge)
	}
	if recorder.recorded() != 1 || a.bodies.inUse() != 0 {
		t.Errorf("%d recorded, %d bytes taken", recorder.recorded(), a.bodies.inUse())
	}
}

func TestAnInflaterIsCountedInTheMemoryForBodies(t *testing.T) {
	a, recorder := newAPI(t, func(c *Config) { c.MaxBodiesBytes = 2*inflaterBytes - 2 })
	wantProblem(t, do(a, "POST", "/v1/updates", zipped(t, plain), asJSON, asGzip), busy)
	if w := do(a, "POST", "/v1/updates", plain, asJSON); w.Code != http.StatusAccepted || recorder.recorded() != 1 {
		t.Errorf("a plain one: %d %s", w.Code, w.Body)
	}
}

func TestABodyThatIsNotTheGzipItPromisesIsRefused(t *testing.T) {
	good := zipped(t, plain)
	flipped := []byte(good)
	flipped[len(flipped)-6] ^= 1 // in the checksum
	head := good[:10]
	// Empty blocks as they are, of five bytes each: nothing is inflated of any number of them.
	empty := head + strings.Repeat("\x00\x00\x00\xff\xff", 1<<20)
	for name, body := range map[string]string{
		"plain": plain, "empty": "", "a part of the head": good[:5], "cut off": good[:len(good)-9], "without its length": good[:len(good)-4],
		"wrong checksum": string(flipped), "corrupt": head + "\xff\xff\xff", "two members": good + good, "something behind it": good + "x",
		"nothing, at length": empty,
	} {
		t.Run(name, func(t *testing.T) {
			a, recorder := newAPI(t, nil)
			p := wantProblem(t, do(a, "POST", "/v1/updates", body, asJSON, asGzip), invalidRequest)
			if !strings.Contains(p.Detail, "nothing was recorded") || recorder.recorded() != 0 || a.bodies.inUse() != 0 {
				t.Errorf("%s; %d recorded, %d bytes taken", p.Detail, recorder.recorded(), a.bodies.inUse())
			}
			if want := name == "nothing, at length"; strings.Contains(p.Detail, errNoContent.Error()) != want {
				t.Errorf("the detail is %s", p.Detail)
			}
			// The same inflater then does its next work.
			if w := do(a, "POST", "/v1/updates", good, asJSON, asGzip); w.Code != http.StatusAccepted || recorder.recorded() != 1 {
				t.Errorf("afterwards: %d %s", w.Code, w.Body)
			}
		})
	}
}

func TestWhatHardlyCompressesIsTakenCompressedToo(t *testing.T) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	for i := range n {
		fmt.Fprintf(z, "{\"spend\": \"0.%d\", \"api_key\": \"key-%d\"}\n", i+1, i)
		if err := z.Flush(); err != nil { // an empty block each
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	a, recorder := newAPI(t, func(c *Config) { c.MaxUpdates = n })
	if w := do(a, "POST", "/v1/updates", out.String(), asNDJSON, asGzip); w.Code != http.StatusAccepted || recorder.recorded() != n {
		t.Errorf("%d %.300s; %d recorded", w.Code, w.Body, recorder.recorded())
	}
}

func TestSmallBodiesAreNotInflated(t *testing.T) {
	a, _ := newAPI(t, withTokens("secret-1"))
	wantProblem(t, do(a, "POST", "/v1/session", zipped(t, `{"token":"secret-1"}`), asJSON, asGzip), unsupportedMediaType)
}
