package s3proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/agent/s3"
)

// fragments reads at most 7 bytes at a time.
type fragments struct{ io.Reader }

func (f fragments) Read(p []byte) (int, error) { return f.Reader.Read(p[:min(len(p), 7)]) }

func exampleSeal(t testing.TB) s3.Seal {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://s3.amazonaws.com/examplebucket/chunkObject.txt", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{
		"X-Amz-Date": "20130524T000000Z", "X-Amz-Storage-Class": "REDUCED_REDUNDANCY", "X-Amz-Content-Sha256": s3.SignedChunks,
		"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "66560", "Content-Length": "66824",
	} {
		r.Header.Set(key, value)
	}
	seal, err := s3.Sign(r, s3.Keys{AccessKeyID: "AKIAIOSFODNN7EXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}, "us-east-1", "s3")
	if err != nil {
		t.Fatal(err)
	}
	return seal
}

func chunk(size int, signature string) string {
	return fmt.Sprintf("%x;chunk-signature=%s\r\n%s\r\n", size, signature, strings.Repeat("a", size))
}

// The client's signatures become those of Amazon's published example, however
// the stream is cut into reads.
func TestChunksAreSignedAnew(t *testing.T) {
	t.Parallel()
	theirs := strings.Repeat("0", hexDigest)
	in := chunk(65536, theirs) + chunk(1024, theirs) + chunk(0, theirs)
	want := chunk(65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648") +
		chunk(1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497") +
		chunk(0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9")
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"as a whole":     func(r io.Reader) io.Reader { return r },
		"in seven bytes": func(r io.Reader) io.Reader { return fragments{r} },
		"byte by byte":   iotest.OneByteReader,
		"end with data":  iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var payload uint64
			got, err := io.ReadAll(fragments{newChunks(wrap(strings.NewReader(in)), exampleSeal(t), func(n uint64) { payload += n })})
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Error("the stream differs from the published one")
			}
			if payload != 66560 {
				t.Errorf("payload = %d", payload)
			}
		})
	}
}

func TestChunksRefuse(t *testing.T) {
	t.Parallel()
	signature := strings.Repeat("0", hexDigest)
	for name, in := range map[string]string{
		"a stream that ends in a chunk":          chunk(10, signature)[:95],
		"a stream without a last chunk":          chunk(10, signature),
		"a chunk above the limit":                fmt.Sprintf("%x;chunk-signature=%s\r\n", chunkLimit+1, signature),
		"a size that is no number":               "ten;chunk-signature=" + signature + "\r\n",
		"a size that wraps around":               "fffffffffffffffff;chunk-signature=" + signature + "\r\n",
		"a header without a signature":           "a\r\n",
		"a signature that is too short":          "a;chunk-signature=00\r\n",
		"a header above its limit":               "a;chunk-signature=" + strings.Repeat("0", headerLimit) + "\r\n",
		"data that goes on after its size":       strings.Replace(chunk(10, signature), "aaaa\r\n", "aaaaa\r\n", 1),
		"a body that was never cut into chunks":  strings.Repeat("x", 5000),
		"a line that is ended by a newline only": "a;chunk-signature=" + signature + "0\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := io.ReadAll(newChunks(strings.NewReader(in), exampleSeal(t), func(uint64) {})); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

// Whatever the sizes, data and length stay as they were.
func TestChunksKeepDataAndLength(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sizes := append(rapid.SliceOfN(rapid.IntRange(1, 5000), 0, 8).Draw(t, "sizes"), 0)
		signature := strings.Repeat("f", hexDigest)
		var in, data bytes.Buffer
		for _, size := range sizes {
			in.WriteString(chunk(size, signature))
			data.WriteString(strings.Repeat("a", size))
		}
		length := in.Len()
		got, err := io.ReadAll(newChunks(&in, s3.Seal{}, func(uint64) {}))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != length {
			t.Fatalf("length = %d, was %d", len(got), length)
		}
		var kept []byte
		for _, size := range sizes {
			_, rest, _ := bytes.Cut(got, []byte("\r\n"))
			kept, got = append(kept, rest[:size]...), rest[size+2:]
		}
		if !bytes.Equal(kept, data.Bytes()) {
			t.Fatal("data changed")
		}
	})
}
