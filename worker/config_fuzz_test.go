package worker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever the environment holds, it is refused by name or is a configuration
// that is valid and that its own settings say in full.
func FuzzLoadConfig(f *testing.F) {
	names, settings := []string{}, DefaultConfig().Settings()
	for _, s := range settings {
		names = append(names, s.Name)
	}
	for i, s := range settings {
		next := (i + 1) % len(settings) // as it is by default, so that the first is what is refused
		f.Add(uint8(i), s.Value, uint8(next), "")
		for _, value := range []string{"", " ", "0", "-1", "1", "1s", "1h1m1s1ms1us1ns", "9223372036854775807ns", "9999999h", "1e3", "80,,90", "80, 90 ,100", "100,80", "80,80", "0x50", "1000", "2147483648", "Local", "../etc/passwd", "America/Santiago", "off", ":0", "[::1]:8080", "es-CL", "\xff", "%zz", "{{.}}", "\x00", "ﬀ"} {
			f.Add(uint8(i), value, uint8(next), settings[next].Value)
		}
	}
	f.Fuzz(func(t *testing.T, first uint8, value string, second uint8, other string) {
		given := map[string]string{}
		given[names[int(second)%len(names)]] = other
		given[names[int(first)%len(names)]] = value
		c, err := LoadConfig(given)
		if err != nil {
			require.True(t, slices.ContainsFunc(names, func(n string) bool { return strings.Contains(err.Error(), n) }), "%v names no setting", err)
			for line := range strings.SplitSeq(err.Error(), "\n") {
				require.True(t, strings.HasPrefix(line, "TOKENALERT_"), "a value breaks the lines of %q", err)
			}
			return
		}
		require.NoError(t, c.Validate())
		require.True(t, slices.IsSorted(c.Thresholds))
		_, err = time.LoadLocation(c.TimeZone)
		require.NoError(t, err)
		again := map[string]string{}
		for _, s := range c.Settings() {
			again[s.Name] = s.Value
		}
		same, err := LoadConfig(again)
		require.NoError(t, err)
		require.Equal(t, c, same)
	})
}

// A duration that is written down is the same when it is read.
func FuzzDurationText(f *testing.F) {
	for _, d := range []time.Duration{0, 1, -1, time.Second, time.Minute, time.Hour, 90 * time.Minute, 168 * time.Hour, -time.Hour, 1<<63 - 1, -1 << 63} {
		f.Add(int64(d))
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d, err := time.ParseDuration(durationText(time.Duration(n)))
		require.NoError(t, err)
		require.Equal(t, time.Duration(n), d)
	})
}
