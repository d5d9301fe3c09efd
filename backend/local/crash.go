package local

import (
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/berth-dev/berth/backend"
)

// What counts in a log. While a server runs, FATAL is mostly about one
// client's session, so only a PANIC explains its end.
var (
	fatals     = regexp.MustCompile(`(?:FATAL|PANIC): +(.+)`)
	panics     = regexp.MustCompile(`PANIC: +(.+)`)
	initErrors = regexp.MustCompile(`(?:error|FATAL|PANIC): +(.+)`)
)

const (
	logTail    = 16 << 10 // bytes
	lineLength = 200      // bytes
)

// crash says why the process ended, the same text for the same cause.
func (p *running) crash(counts *regexp.Regexp) error {
	how := "it ended by itself"
	if err := p.Err(); err != nil {
		how = err.Error()
	}
	if line := lastLine(p.tail(), counts); line != "" {
		how += "; its log says: " + line
	}
	return &finding{backend.Observed{Reason: Crashed, Message: "The server ended and is started again (" + how + ")."}}
}

// tail is the end of what this process logged.
func (p *running) tail() string {
	f, err := os.Open(p.log)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	if _, err := f.Seek(max(p.begin, size-logTail), io.SeekStart); err != nil {
		return ""
	}
	tail, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	return string(tail)
}

// lastLine is the last line of text that counts, without time and process.
func lastLine(text string, counts *regexp.Regexp) string {
	matches := counts.FindAllStringSubmatch(text, -1)
	if len(matches) == 0 {
		return ""
	}
	line := strings.ToValidUTF8(strings.TrimSpace(matches[len(matches)-1][1]), "")
	if len(line) > lineLength {
		line = strings.ToValidUTF8(line[:lineLength], "") + "..."
	}
	return strings.TrimSuffix(line, ".")
}
