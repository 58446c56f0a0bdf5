package worker

import (
	"fmt"
	"io"
	"maps"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// stormEvery is how long a repeated line is only counted before a summary is written.
	stormEvery = time.Minute
	// stormLines bounds how many different lines are remembered.
	stormLines = 1000
)

// Medium is what a log is written to.
type Medium int

// A log goes to a file or a pipe, or to a person, whose terminal may have
// colours or not (https://no-color.org).
const (
	Pipe Medium = iota
	PlainTerminal
	ColourTerminal
)

// NewLogger writes lines of at least the given level (debug, info, warn or
// error) to w: as JSON where format is "json", for people where it is
// "console", and with "auto" for people on a terminal and as JSON elsewhere.
// Every line has the given fields, those of a summary too.
//
// Three things hold for every line. Times are RFC 3339 in UTC with
// milliseconds, and durations milliseconds. E-mail and network addresses in an
// error or a reason are masked. And a warning or error that repeats (the same
// event, user or setting, and error) is written once and then counted: a storm.summary
// follows once a minute, when another error takes its place under the same
// event, when a leader or the database is back, and at Sync. A storm is timed
// by the lines themselves, so the last summary waits for the next line or Sync.
func NewLogger(level, format string, w io.Writer, medium Medium, fields ...zap.Field) (*zap.Logger, error) {
	var lowest zapcore.Level
	switch level {
	case "debug", "info", "warn", "error":
		if err := lowest.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("log level %q: %w", level, err)
		}
	default:
		return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
	}

	config := zapcore.EncoderConfig{
		TimeKey:        "ts",
		LevelKey:       "level",
		MessageKey:     "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeTime:     encodeTime,
		EncodeDuration: encodeMillis,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
	}
	var encoder zapcore.Encoder
	switch {
	case format == "json", format == "auto" && medium == Pipe:
		encoder = zapcore.NewJSONEncoder(config)
	case format == "console", format == "auto":
		config.ConsoleSeparator = "  "
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		if medium == ColourTerminal {
			config.EncodeLevel = zapcore.CapitalColorLevelEncoder
		}
		encoder = zapcore.NewConsoleEncoder(config)
	default:
		return nil, fmt.Errorf("log format %q: want auto, json or console", format)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), lowest).With(fields)
	return zap.New(newStormCore(core)), nil
}

func encodeTime(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
}

// encodeMillis keeps microseconds, as a quick tick takes less than a millisecond.
func encodeMillis(d time.Duration, enc zapcore.PrimitiveArrayEncoder) {
	enc.AppendFloat64(math.Round(float64(d)/float64(time.Microsecond)) / 1000)
}

// stormCore masks addresses and counts lines that repeat. Its copies with
// context (With) share one memory of what was written.
type stormCore struct {
	zapcore.Core
	line   stormLine // what the context says about the line to come
	storms *storms
}

// stormLine is what makes two lines the same.
type stormLine struct {
	event, user, setting, err string
	organization              string // whose budget it is; empty where the line is of a user
}

type storm struct {
	level zapcore.Level
	since time.Time // the line that was written, or the last summary
	last  time.Time
	times int
}

type storms struct {
	mu    sync.Mutex
	root  zapcore.Core // writes summaries
	lines map[stormLine]*storm
	due   time.Time // no storm needs looking at before
	now   time.Time // the latest line's
}

func newStormCore(core zapcore.Core) zapcore.Core {
	return &stormCore{Core: core, storms: &storms{root: core, lines: map[stormLine]*storm{}}}
}

func (c *stormCore) With(fields []zapcore.Field) zapcore.Core {
	fields = maskFields(fields)
	return &stormCore{Core: c.Core.With(fields), line: c.line.with(fields), storms: c.storms}
}

func (c *stormCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c *stormCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	fields = maskFields(fields)
	l := c.line.with(fields)
	if l.event == "" {
		l.event = entry.Message
	}
	counted, err := c.storms.count(l, entry)
	if err != nil || counted {
		return err
	}
	return c.Core.Write(entry, fields)
}

// Sync writes a summary of every line that was counted since the last one.
func (c *stormCore) Sync() error {
	if err := c.storms.flush(); err != nil {
		return err
	}
	return c.Core.Sync()
}

// with adds what the fields say.
func (l stormLine) with(fields []zapcore.Field) stormLine {
	for _, f := range fields {
		switch {
		case f.Key == "event" && f.Type == zapcore.StringType:
			l.event = f.String
		case f.Key == "error" && f.Type == zapcore.StringType:
			l.err = f.String
		case f.Key == "setting" && f.Type == zapcore.StringType:
			l.setting = f.String
		case f.Key == "user":
			l.user = idText(f)
		case f.Key == "organization":
			l.organization = idText(f)
		}
	}
	if l.user != "" {
		l.organization = ""
	}
	return l
}

// idText is an id's text, whatever its type.
func idText(f zapcore.Field) string {
	enc := zapcore.NewMapObjectEncoder()
	f.AddTo(enc)
	return fmt.Sprint(enc.Fields[f.Key])
}

// stormOver names, by the event that ends a storm, the event that repeated.
var stormOver = map[string]EventName{
	string(EventDatabaseConnected): EventDatabaseUnreachable,
	string(EventLeaderAcquired):    EventLeaderLost,
}

// count reports whether the line repeats one that was written, and writes the
// summaries that are due before it.
func (s *storms) count(l stormLine, entry zapcore.Entry) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if entry.Time.After(s.now) {
		s.now = entry.Time
	}

	// Information, fatal lines, alerts, and those that are not delivered are never counted
	// in place of being written.
	troubles := (entry.Level == zapcore.WarnLevel || entry.Level == zapcore.ErrorLevel) &&
		!strings.HasPrefix(l.event, "alert.") && l.event != string(EventDeliveryFailed)
	st, repeats := s.lines[l]
	repeats = repeats && troubles && s.now.Sub(st.last) < stormEvery
	if repeats {
		st.times++
		st.last = s.now
	}
	if err := s.sweep(); err != nil {
		return repeats, err
	}
	if ended, ok := stormOver[l.event]; ok {
		about := func(other stormLine, _ *storm) bool { return other.event == string(ended) }
		err := s.summarize(about)
		maps.DeleteFunc(s.lines, about) // its next line is news
		return false, err
	}
	if repeats || !troubles {
		return repeats, nil
	}

	// Another error takes the place of the one before, for the same user or setting.
	err := s.summarize(func(other stormLine, _ *storm) bool {
		other.err = l.err
		return other == l
	})
	if err != nil {
		return false, err
	}
	if len(s.lines) >= stormLines {
		if err := s.summarize(func(stormLine, *storm) bool { return true }); err != nil {
			return false, err
		}
		clear(s.lines)
	}
	s.lines[l] = &storm{level: entry.Level, since: s.now, last: s.now}
	if due := s.now.Add(stormEvery); len(s.lines) == 1 || due.Before(s.due) {
		s.due = due
	}
	return false, nil
}

// sweep writes the summaries that are a minute old, and forgets the lines that
// did not come again for as long.
func (s *storms) sweep() error {
	if len(s.lines) == 0 || s.now.Before(s.due) {
		return nil
	}
	if err := s.summarize(func(_ stormLine, st *storm) bool { return s.now.Sub(st.since) >= stormEvery }); err != nil {
		return err
	}
	s.due = s.now.Add(stormEvery)
	for l, st := range s.lines {
		if s.now.Sub(st.last) >= stormEvery {
			delete(s.lines, l)
		} else if due := st.since.Add(stormEvery); due.Before(s.due) {
			s.due = due
		}
	}
	return nil
}

func (s *storms) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.summarize(func(stormLine, *storm) bool { return true })
}

func (s *storms) summarize(which func(stormLine, *storm) bool) error {
	for l, st := range s.lines {
		if st.times == 0 || !which(l, st) {
			continue
		}
		fields := []zapcore.Field{Event(EventStormSummary), zap.String("repeated", l.event), zap.Int("times", st.times), zap.Time("since", st.since)}
		if l.user != "" {
			fields = append(fields, zap.String("user", l.user))
		}
		if l.organization != "" {
			fields = append(fields, zap.String("organization", l.organization))
		}
		if l.setting != "" {
			fields = append(fields, zap.String("setting", l.setting))
		}
		if l.err != "" {
			fields = append(fields, zap.String("error", l.err))
		}
		entry := zapcore.Entry{Level: st.level, Time: s.now, Message: "the same line again"}
		if err := s.root.Write(entry, fields); err != nil {
			return fmt.Errorf("write the summary of %s: %w", l.event, err)
		}
		st.times, st.since = 0, s.now
	}
	return nil
}

// maskFields replaces errors by their text, and addresses in it by a mark.
func maskFields(fields []zapcore.Field) []zapcore.Field {
	var masked []zapcore.Field
	for i, f := range fields {
		text := f.String
		switch {
		case f.Type == zapcore.ErrorType:
			err, ok := f.Interface.(error)
			if !ok {
				continue
			}
			text = err.Error()
		case f.Type == zapcore.StringType && (f.Key == "error" || f.Key == "reason"):
		default:
			continue
		}
		if masked == nil {
			masked = append(masked, fields...) // the caller's slice is not ours to change
		}
		masked[i] = zap.String(f.Key, maskAddresses(strings.Map(unseen, text)))
	}
	if masked == nil {
		return fields
	}
	return masked
}

// unseen leaves out what the encoders of zap write as it is, and a terminal acts
// upon: DEL, the control characters above ASCII, and those that turn a text around.
func unseen(r rune) rune {
	if r >= '\x7f' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
		return -1
	}
	return r
}

const addressMask = "<address>"

var (
	// addressHosts finds the names of hosts by what Go and pgx write before them.
	addressHosts = regexp.MustCompile(`\b(lookup |host=|hostname=)[^\s:,]+`)
	// addressCertificates finds the names in "certificate is valid for a, b, not c".
	addressCertificates = regexp.MustCompile(`\b(certificate is (?:not )?valid for ).*`)
	addressURLs         = regexp.MustCompile(`\b[a-z][a-z0-9+.-]*://[^\s"'` + "`" + `]+`)
	addressWords        = regexp.MustCompile(`[\[\]0-9A-Za-z:.%_@+-]+`)
	addressHostPort     = regexp.MustCompile(`^(?:localhost|[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+):[0-9]{1,5}$`)
	// addressOfHost is what pgx adds to an address: "10.0.0.5:5432 (db.example): ".
	addressOfHost = regexp.MustCompile(addressMask + ` \([^\s()]+\)`)
)

// maskAddresses masks e-mail addresses, URLs, IP addresses and the host names
// that errors of Go and pgx contain. Ephemeral ports go with them, so that the
// same failure reads the same each time.
func maskAddresses(text string) string {
	text = addressURLs.ReplaceAllString(text, addressMask)
	text = addressCertificates.ReplaceAllString(text, "${1}"+addressMask)
	text = addressHosts.ReplaceAllString(text, "${1}"+addressMask)
	text = addressWords.ReplaceAllStringFunc(text, func(word string) string {
		bare := strings.TrimRight(word, ":.-")
		if !isAddress(bare) {
			return word
		}
		return addressMask + word[len(bare):]
	})
	return addressOfHost.ReplaceAllString(text, addressMask)
}

func isAddress(word string) bool {
	if name, domain, ok := strings.Cut(word, "@"); ok && name != "" && domain != "" {
		return true
	}
	if _, err := netip.ParseAddr(strings.Trim(word, "[]")); err == nil {
		return true
	}
	if _, err := netip.ParseAddrPort(word); err == nil {
		return true
	}
	return addressHostPort.MatchString(word)
}
