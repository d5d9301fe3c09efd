package s3proxy

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/agent/s3"
)

const (
	chunkLimit  = 8 << 20 // bytes of data in one chunk
	headerLimit = 1024    // bytes of the line before it
	signatureIs = "chunk-signature="
	hexDigest   = 2 * sha256.Size
)

// chunks reads a body of signed chunks and signs each anew. All else stays as
// it came, byte for byte, so the length does too. It holds one chunk at most.
type chunks struct {
	in      *bufio.Reader
	seal    s3.Seal
	out     bytes.Buffer
	payload func(n uint64) // told of data as it passes
	last    bool
}

func newChunks(body io.Reader, seal s3.Seal, payload func(uint64)) *chunks {
	return &chunks{in: bufio.NewReaderSize(body, headerLimit), seal: seal, payload: payload}
}

func (c *chunks) Read(p []byte) (int, error) {
	if c.out.Len() == 0 {
		if c.last {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, fmt.Errorf("reading a signed chunk: %w", err)
		}
	}
	return c.out.Read(p)
}

var errChunk = errors.New("it is malformed")

func (c *chunks) next() error {
	line, err := c.in.ReadSlice('\n') // ErrBufferFull beyond headerLimit
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	size, rest, found := strings.Cut(string(line), ";")
	n, err := strconv.ParseUint(size, 16, 32)
	rest, signed := strings.CutPrefix(rest, signatureIs)
	if err != nil || !found || !signed || len(rest) != hexDigest+2 || !strings.HasSuffix(rest, "\r\n") {
		return errChunk
	}
	if n > chunkLimit {
		return fmt.Errorf("it has %d bytes, more than %d", n, chunkLimit)
	}
	header := len(size) + len(";") + len(signatureIs) + hexDigest + 2
	c.out.Reset()
	c.out.Grow(header + int(n) + 2)
	whole := c.out.AvailableBuffer()[:header+int(n)+2]
	if _, err := io.ReadFull(c.in, whole[header:]); err != nil {
		return io.ErrUnexpectedEOF
	}
	if !bytes.HasSuffix(whole, []byte("\r\n")) {
		return errChunk
	}
	copy(whole, size+";"+signatureIs+c.seal.Chunk(sha256.Sum256(whole[header:len(whole)-2]))+"\r\n")
	c.out.Write(whole)
	c.payload(n)
	c.last = n == 0
	return nil
}
