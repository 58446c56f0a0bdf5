package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// No line of the log has an address that an error brought along, in whatever
// text it stood, and every line is one line.
func FuzzLogMasksAddresses(f *testing.F) {
	for _, text := range []string{
		"", "x", " ", "failed to connect to `host=", ": dial tcp ", "\n", "\x1b[31m", "é", "\xff", "\"", "`", "lookup ", "1", ".", "-", "@", ":", "[", "]", "a@", "://", "%",
		"certificate is valid for ", "\u2028", "中", "\x7f", "\u009b31m", "\u202e",
	} {
		f.Add(text, text)
		f.Add(text, "")
		f.Add("", text)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		for kind, address := range map[string]string{
			"e-mail":   "zoe.secret@hidden.example.org",
			"URL":      "postgres://ann:hunter2secret@hidden.example.org:5432/db",
			"IPv4":     "203.0.113.77",
			"IPv4port": "203.0.113.77:5432",
			"IPv6":     "[2001:db8::77]:5432",
			"host":     "hidden.example.org:5432",
		} {
			// Set off by spaces, as errors have it: what is glued to a word is no address.
			text := before + " " + address + " " + after
			var out bytes.Buffer
			for _, format := range []string{"json", "console"} {
				log, err := NewLogger("debug", format, &out, Pipe)
				require.NoError(t, err)
				log.Error("it failed", zap.Error(errors.New(text)), Event(EventTickFailed))
				log.With(zap.Error(errors.New(text))).Info("in the context")
				log.Warn("given", zap.String("reason", text))
				require.NoError(t, log.Sync())
			}
			for line := range strings.Lines(out.String()) {
				for _, secret := range []string{"hidden.example", "zoe.secret", "hunter2", "203.0.113.77", "2001:db8::77"} {
					if strings.Contains(line, secret) {
						t.Fatalf("%s in %q shows in %q", kind, text, line)
					}
				}
				if i := strings.IndexFunc(strings.TrimSuffix(line, "\n"), unseeable); i >= 0 {
					t.Fatalf("what a terminal acts upon in %q", line)
				}
			}
			if n := strings.Count(out.String(), "\n"); n != 6 {
				t.Fatalf("%d lines, not 6:\n%s", n, out.String())
			}
			first, _, _ := strings.Cut(out.String(), "\n")
			require.True(t, json.Valid([]byte(first)), first)
		}
		masked := maskAddresses(before)
		require.Equal(t, masked, maskAddresses(masked), "masked twice")
	})
}

// unseeable is what no line may have. The tabs of console lines are our own.
func unseeable(r rune) bool { return r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }
