package worker

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/mail"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caarlos0/env/v11"
)

// Config is everything about the worker that can be set, but for the database
// it works on. The tags are the one place that holds a variable's name, its
// default ("derived" says in words what is worked out at start) and its line
// in --help.
type Config struct {
	// Thresholds are percentages of a user's limit, each once. LoadConfig and
	// New put them in order.
	Thresholds []int `env:"TOKENALERT_THRESHOLDS" envDefault:"80,90,100" help:"percentages of the limit at which a user is told"`
	// TimeZone is a name of the IANA database. It decides when a period begins.
	TimeZone string `env:"TOKENALERT_TIME_ZONE" envDefault:"UTC" help:"zone in which periods begin at midnight"`
	// Language is used for users whose own is unknown or not among ours.
	Language string `env:"TOKENALERT_LANGUAGE" envDefault:"es" help:"language of messages to users who have none: es, en or pt"`
	// Templates is a directory of files as they are in worker/words.
	Templates string `env:"TOKENALERT_TEMPLATES" envDefault:"off" help:"a directory of own titles and messages, read at start, or off"`
	// LinkURL is written to notifications.link_url, a varchar(255).
	LinkURL string `env:"TOKENALERT_LINK_URL" envDefault:"/admin/token-usage" help:"where a notification leads"`
	// Backfill is about users who already stand above a threshold when the
	// first count ends: tell them, or only record it.
	Backfill string `env:"TOKENALERT_BACKFILL" envDefault:"tell" help:"at the first start, users above a threshold: tell or record"`

	// SiteURL makes a link that is a path absolute, where it leaves the site: in
	// e-mails and webhooks.
	SiteURL string `env:"TOKENALERT_SITE_URL" envDefault:"off" help:"the site of links in e-mails, as https://learn.example.com"`
	// Email delivers by each organization's own server, or else by that of
	// TOKENALERT_SMTP_URL.
	Email string `env:"TOKENALERT_EMAIL" envDefault:"off" help:"tell users by e-mail too: on or off"`
	// EmailFrom is the sender where an organization has no server of its own.
	EmailFrom string `env:"TOKENALERT_EMAIL_FROM" envDefault:"off" help:"sender of e-mails, as in Alerts <alerts@example.com>, or off"`
	// WebhookAllow are hosts that webhooks may reach although they are private.
	WebhookAllow []string `env:"TOKENALERT_WEBHOOK_ALLOW" envDefault:"off" help:"private hosts that webhooks may reach: names, addresses, nets"`

	// Bell auto rings unless max_prepared_transactions is above 0, where a
	// NOTIFY would make the host's PREPARE TRANSACTION fail.
	Bell string `env:"TOKENALERT_BELL" envDefault:"auto" help:"let inserts wake the worker: auto, on, or off (poll)"`
	// BellLease is how long the bell stays armed after the last renewal, and so
	// what a worker that died goes on costing the host's inserts.
	BellLease time.Duration `env:"TOKENALERT_BELL_LEASE" envDefault:"30s" help:"how long the bell stays armed without renewal"`
	// BellRenewal also bounds the delay that a lost ring can cause: a leader that
	// sleeps looks as often.
	BellRenewal time.Duration `env:"TOKENALERT_BELL_RENEWAL" envDefault:"10s" help:"how often the bell is renewed, with a look for work"`

	// LeadPing is how often the leader proves to the server that it lives.
	LeadPing time.Duration `env:"TOKENALERT_LEAD_PING" envDefault:"3s" help:"how often the leader pings its session"`
	// LeadTimeout is that session's idle_session_timeout: the server ends it,
	// and frees the lead, after so long without a ping.
	LeadTimeout time.Duration `env:"TOKENALERT_LEAD_TIMEOUT" envDefault:"10s" help:"silence after which the server takes the lead away"`
	// LeadRetry is the mean pause between a follower's attempts.
	LeadRetry time.Duration `env:"TOKENALERT_LEAD_RETRY" envDefault:"1s" help:"how often a follower tries to take the lead"`

	// PauseMin and PauseMax bound the pause between two ticks while there is
	// work; in between it follows what a tick costs.
	PauseMin time.Duration `env:"TOKENALERT_PAUSE_MIN" envDefault:"2ms" help:"shortest pause between ticks while there is work"`
	PauseMax time.Duration `env:"TOKENALERT_PAUSE_MAX" envDefault:"250ms" help:"longest pause between ticks while there is work"`
	// TickTarget is what the slice of a bounded tick is adapted to.
	TickTarget time.Duration `env:"TOKENALERT_TICK_TARGET" envDefault:"800ms" help:"how long a tick should take; far behind, up to 5 times that"`
	// TickRetention is the age at which rows of the tick chain are pruned.
	TickRetention time.Duration `env:"TOKENALERT_TICK_RETENTION" envDefault:"24h" help:"how long the history of ticks is kept"`
	// ReconcileInterval 0 leaves reconciling to the command.
	ReconcileInterval time.Duration `env:"TOKENALERT_RECONCILE_INTERVAL" envDefault:"24h" help:"how often totals are compared with the rows; 0 is never"`

	// HTTPAddress is what net.Listen takes; empty or "off" is no HTTP.
	HTTPAddress string `env:"TOKENALERT_HTTP_ADDRESS" envDefault:":8080" help:"address of the probes and /metrics, or off"`
	LogLevel    string `env:"TOKENALERT_LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
	// LogFormat auto is console on a terminal and json elsewhere.
	LogFormat string `env:"TOKENALERT_LOG_FORMAT" envDefault:"auto" help:"auto, json or console; auto is console on a terminal"`
	// ShutdownGrace is the time from SIGTERM to the end, come what may.
	ShutdownGrace time.Duration `env:"TOKENALERT_SHUTDOWN_GRACE" envDefault:"10s" help:"time to finish after SIGTERM"`
	// WorkerName is part of application_name, which holds 63 bytes.
	WorkerName string `env:"TOKENALERT_WORKER_NAME" derived:"hostname-pid" help:"name of this process in its log and in the chain of ticks"`
}

// HTTPEnabled reports whether there is an address to listen on.
func (c Config) HTTPEnabled() bool {
	return c.HTTPAddress != "" && c.HTTPAddress != off
}

// off is the value of a setting that there is none.
const off = "off"

// Setting is a field of Config, as its environment variable.
type Setting struct {
	Field, Name, Value, Default, Help string
}

// Settings lists every field of c, in the order of the struct. A value can be
// read back by LoadConfig.
func (c Config) Settings() []Setting {
	var list []Setting
	for field, value := range reflect.ValueOf(c).Fields() {
		s := Setting{
			Field:   field.Name,
			Name:    field.Tag.Get("env"),
			Default: cmp.Or(field.Tag.Get("envDefault"), field.Tag.Get("derived")),
			Help:    field.Tag.Get("help"),
		}
		switch v := value.Interface().(type) {
		case []int:
			s.Value = thresholdsText(v)
		case []string:
			s.Value = strings.Join(v, ",")
		case time.Duration:
			s.Value = durationText(v)
		default:
			s.Value = fmt.Sprint(v)
		}
		list = append(list, s)
	}
	return list
}

// DefaultConfig is the Config of an empty environment.
func DefaultConfig() Config {
	c, err := LoadConfig(nil)
	if err != nil {
		panic("the defaults of worker.Config are invalid: " + err.Error())
	}
	return c
}

// LoadConfig reads the variables that Config names from environment and
// validates what it read. It reports all errors at once. A variable that is
// there and empty is an error, except for the HTTP address: a template that
// lost its value should not pass for a wish to have the default.
func LoadConfig(environment map[string]string) (Config, error) {
	given := maps.Clone(environment)
	if given == nil {
		given = map[string]string{} // env takes nil for the process's own
	}
	var c Config
	parseErr := env.ParseWithOptions(&c, env.Options{
		Environment: given,
		FuncMap: map[reflect.Type]env.ParserFunc{
			reflect.TypeFor[int](): func(s string) (any, error) { return strconv.Atoi(strings.TrimSpace(s)) },
		},
	})
	slices.Sort(c.Thresholds)
	if c.WorkerName == "" {
		c.WorkerName = defaultWorkerName()
	}

	var errs []error
	var unread []string // names that the rules cannot say anything about
	for _, s := range c.Settings() {
		switch value, found := given[s.Name]; {
		case found && value == "" && s.Field == "HTTPAddress":
			c.HTTPAddress = off
		case found && value == "":
			errs = append(errs, fmt.Errorf("%s is empty: leave it out for its default, %s", s.Name, s.Default))
		case failedOn(parseErr, s.Field):
			wanted := "a duration with its unit, such as 500ms, 30s or 1h"
			if s.Field == "Thresholds" {
				wanted = "whole numbers separated by commas, such as 80,90,100"
			}
			errs = append(errs, fmt.Errorf("%s=%s must be %s", s.Name, settingText(value), wanted))
			unread = append(unread, s.Name+"=")
		}
	}
	if parseErr != nil && len(unread) == 0 {
		errs = append(errs, parseErr) // a tag that env does not understand
	}
	for _, err := range c.broken() {
		about := func(name string) bool { return strings.Contains(err.Error(), name) }
		if !slices.ContainsFunc(unread, about) {
			errs = append(errs, err)
		}
	}
	return c, errors.Join(errs...)
}

// failedOn reports whether err says that the field could not be parsed.
func failedOn(err error, field string) bool {
	var all env.AggregateError
	return errors.As(err, &all) && slices.ContainsFunc(all.Errors, func(err error) bool {
		var one env.ParseError
		return errors.As(err, &one) && one.Name == field
	})
}

// Validate reports every rule that c breaks, each with the name of the
// setting, its value and what is allowed.
func (c Config) Validate() error {
	return errors.Join(c.broken()...)
}

func (c Config) broken() []error {
	var errs []error
	refuse := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(format, args...))
	}
	oneOf := func(name, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			refuse("%s=%s must be one of %s", name, settingText(value), strings.Join(allowed, ", "))
		}
	}
	between := func(name string, value, low, high time.Duration) {
		if value < low || value > high {
			refuse("%s=%s must be from %s to %s", name, durationText(value), durationText(low), durationText(high))
		}
	}
	atLeast := func(name string, value, low time.Duration) {
		if value < low {
			refuse("%s=%s must be at least %s", name, durationText(value), durationText(low))
		}
	}

	if n := len(c.Thresholds); n < 1 || n > 10 {
		refuse("TOKENALERT_THRESHOLDS=%s must be 1 to 10 percentages, not %d", thresholdsText(c.Thresholds), n)
	}
	if slices.ContainsFunc(c.Thresholds, func(t int) bool { return t < 1 || t > 1000 }) {
		refuse("TOKENALERT_THRESHOLDS=%s must be percentages from 1 to 1000", thresholdsText(c.Thresholds))
	}
	for i, t := range c.Thresholds {
		if slices.Contains(c.Thresholds[:i], t) {
			refuse("TOKENALERT_THRESHOLDS=%s must name each percentage once, and names %d again", thresholdsText(c.Thresholds), t)
			break
		}
	}
	if reason := zoneFault(c.TimeZone); reason != "" {
		refuse("TOKENALERT_TIME_ZONE=%s must be a zone of the IANA database, such as UTC or America/Santiago: %s", settingText(c.TimeZone), reason)
	}
	oneOf("TOKENALERT_LANGUAGE", c.Language, "es", "en", "pt")
	if c.Templates == "" || !utf8.ValidString(c.Templates) || settingText(c.Templates) == notShown {
		refuse("TOKENALERT_TEMPLATES=%s must be the path of a directory, without @, :// or the word password, or off", settingText(c.Templates))
	}
	if n := utf8.RuneCountInString(c.LinkURL); n < 1 || n > 255 {
		refuse("TOKENALERT_LINK_URL=%s must be 1 to 255 characters, as notifications.link_url is, not %d", settingText(c.LinkURL), n)
	}
	if link, err := url.Parse(c.LinkURL); err != nil || link.User != nil || !utf8.ValidString(c.LinkURL) {
		refuse("TOKENALERT_LINK_URL=%s must be a URL or the path of one, without a user or password: everyone who is told can read it", settingText(c.LinkURL))
	}
	oneOf("TOKENALERT_BACKFILL", c.Backfill, "tell", "record")
	if site, err := url.Parse(c.SiteURL); c.SiteURL != off && (err != nil || site.User != nil || site.Host == "" || site.RawQuery != "" ||
		site.Fragment != "" || !utf8.ValidString(c.SiteURL) || site.Scheme != "https" && site.Scheme != "http") {
		refuse("TOKENALERT_SITE_URL=%s must be the http or https URL of a site, without a user, password or query", settingText(c.SiteURL))
	}
	oneOf("TOKENALERT_EMAIL", c.Email, "on", "off")
	if _, err := mail.ParseAddress(c.EmailFrom); c.EmailFrom != off && err != nil {
		refuse("TOKENALERT_EMAIL_FROM=%s must be an address, such as alerts@example.com or Alerts <alerts@example.com>", settingText(c.EmailFrom))
	}
	if len(c.WebhookAllow) == 0 || slices.Contains(c.WebhookAllow, "") {
		refuse("TOKENALERT_WEBHOOK_ALLOW=%s must be names, addresses or networks with commas between them, or off", settingText(strings.Join(c.WebhookAllow, ",")))
	}

	oneOf("TOKENALERT_BELL", c.Bell, "auto", "on", "off")
	between("TOKENALERT_BELL_LEASE", c.BellLease, 2*time.Second, 5*time.Minute)
	between("TOKENALERT_BELL_RENEWAL", c.BellRenewal, time.Second, time.Minute)
	if c.BellLease <= 2*c.BellRenewal {
		refuse("TOKENALERT_BELL_LEASE=%s must be more than twice TOKENALERT_BELL_RENEWAL=%s, or one late renewal silences the bell",
			durationText(c.BellLease), durationText(c.BellRenewal))
	}
	between("TOKENALERT_LEAD_PING", c.LeadPing, 100*time.Millisecond, time.Minute)
	between("TOKENALERT_LEAD_TIMEOUT", c.LeadTimeout, 200*time.Millisecond, 5*time.Minute)
	if c.LeadTimeout <= 2*c.LeadPing {
		refuse("TOKENALERT_LEAD_TIMEOUT=%s must be more than twice TOKENALERT_LEAD_PING=%s, or one late ping loses the lead",
			durationText(c.LeadTimeout), durationText(c.LeadPing))
	}
	between("TOKENALERT_LEAD_RETRY", c.LeadRetry, 100*time.Millisecond, 10*time.Second)

	between("TOKENALERT_PAUSE_MIN", c.PauseMin, time.Millisecond, 10*time.Second)
	between("TOKENALERT_PAUSE_MAX", c.PauseMax, time.Millisecond, 10*time.Second)
	if c.PauseMin > c.PauseMax {
		refuse("TOKENALERT_PAUSE_MIN=%s must not be more than TOKENALERT_PAUSE_MAX=%s, or no pause lies between them",
			durationText(c.PauseMin), durationText(c.PauseMax))
	}
	if c.TickTarget < time.Millisecond || c.TickTarget >= 10*time.Second {
		refuse("TOKENALERT_TICK_TARGET=%s must be at least 1ms and less than 10s", durationText(c.TickTarget))
	}
	atLeast("TOKENALERT_TICK_RETENTION", c.TickRetention, time.Hour)
	if c.ReconcileInterval != 0 && c.ReconcileInterval < time.Minute {
		refuse("TOKENALERT_RECONCILE_INTERVAL=%s must be at least 1m, or 0 for never", durationText(c.ReconcileInterval))
	}

	if c.HTTPEnabled() && !listenable(c.HTTPAddress) {
		refuse("TOKENALERT_HTTP_ADDRESS=%s must be host:port or :port with a number from 0 to 65535, or off", settingText(c.HTTPAddress))
	}
	oneOf("TOKENALERT_LOG_LEVEL", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("TOKENALERT_LOG_FORMAT", c.LogFormat, "auto", "json", "console")
	atLeast("TOKENALERT_SHUTDOWN_GRACE", c.ShutdownGrace, time.Second)
	if n := len(c.WorkerName); n < 1 || n > 63 || strings.ContainsFunc(c.WorkerName, notPrintableASCII) {
		refuse("TOKENALERT_WORKER_NAME=%s must be 1 to 63 printable ASCII characters, which is what application_name holds", settingText(c.WorkerName))
	}
	return errs
}

// zoneFault says what is wrong with a zone, or nothing. Two names that Go
// loads are refused: "" is UTC to Go and an error to PostgreSQL, and the
// machine's own zone is another on every machine.
func zoneFault(name string) string {
	switch name {
	case "":
		return "it is empty"
	case "Local", "localtime":
		return "it is another zone on every machine"
	}
	if _, err := time.LoadLocation(name); err != nil {
		return "it is unknown"
	}
	return ""
}

func listenable(address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// defaultWorkerName keeps the end of a hostname that is too long: there
// Kubernetes puts what tells one replica from another.
func defaultWorkerName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "tokenalert"
	}
	host = strings.Map(func(r rune) rune {
		if notPrintableASCII(r) {
			return '_'
		}
		return r
	}, host)
	pid := "-" + strconv.Itoa(os.Getpid())
	return host[max(0, len(host)+len(pid)-63):] + pid
}

func notPrintableASCII(r rune) bool {
	return r > unicode.MaxASCII || !unicode.IsPrint(r)
}

// notShown is what an error says in place of a value that may be secret.
const notShown = "(not shown)"

// settingText is a value for an error message: quoted where its ends would not be
// seen, and left out where a connection string may have gone into the wrong
// variable, with its password.
func settingText(value string) string {
	lower := strings.ToLower(value)
	switch {
	case strings.Contains(lower, "://") || strings.Contains(lower, "@") || strings.Contains(lower, "password"):
		return notShown
	case len(value) > 100:
		return strconv.Quote(value[:60]) + "…"
	case value == "" || strings.ContainsFunc(value, func(r rune) bool { return r == ' ' || notPrintableASCII(r) }):
		return strconv.Quote(value)
	}
	return value
}

func thresholdsText(list []int) string {
	text := make([]string, len(list))
	for i, p := range list {
		text[i] = strconv.Itoa(p)
	}
	return strings.Join(text, ",")
}

// durationText writes 168h where String writes 168h0m0s.
func durationText(d time.Duration) string {
	switch {
	case d != 0 && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d != 0 && d%time.Minute == 0 && d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}
