package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/caarlos0/env/v11"

	"tokenalert/worker"
)

// settings is what the environment says: the worker's part, and how to reach
// the database.
type settings struct {
	worker.Config
	// databaseURL is a connection string in one of pgx's two forms, as it was when
	// the settings were loaded. It may be empty: pgx then takes all from the PG*
	// variables.
	databaseURL string
	// listenURL is for the connections that a pooler in transaction mode would
	// break: lead and listener.
	listenURL string

	environment map[string]string
}

const (
	prefix           = "TOKENALERT_"
	databaseVar      = "DATABASE_URL"
	listenVar        = "TOKENALERT_LISTEN_URL"
	notificationsVar = "TOKENALERT_NOTIFICATIONS_URL"
	smtpVar          = "TOKENALERT_SMTP_URL"
	webhookVar       = "TOKENALERT_WEBHOOK_URL"
	webhookSecretVar = "TOKENALERT_WEBHOOK_SECRET" //nolint:gosec // its name
	fileSuffix       = "_FILE"
)

// secrets are the settings that no line of a log may show. Each may stand in a
// file, which the variable with fileSuffix names.
var secrets = []worker.Setting{
	{Name: databaseVar, Default: "PG* variables", Help: "the host's database: a URL, or keyword=value"},
	{Name: listenVar, Default: databaseVar, Help: "a direct connection, where the first goes through a pooler"},
	{Name: notificationsVar, Default: "-", Help: "another database whose notifications the host's page shows"},
	{Name: smtpVar, Default: "-", Help: "mail server: smtp://user:password@host:587 or smtps://…:465"}, //nolint:gosec // the form of one
	{Name: webhookVar, Default: "-", Help: "where each alert is posted to, as JSON"},
	{Name: webhookSecretVar, Default: "-", Help: "what signs it, whsec_…; two while one is being replaced"},
}

// isDatabase reports whether a secret is a connection string.
func isDatabase(name string) bool {
	return name == databaseVar || name == listenVar || name == notificationsVar
}

// loadSettings reads environ, which has the form of os.Environ, and reports
// every error at once. No error holds a connection string or a part of one.
// PG* variables are not looked up in environ, except for print: pgx reads them
// from the process's own environment.
func loadSettings(environ []string) (settings, error) {
	environment := env.ToMap(environ)
	for _, secret := range secrets {
		for _, name := range []string{secret.Name, secret.Name + fileSuffix} {
			if environment[name] == "" {
				delete(environment, name)
			}
		}
	}
	config, err := worker.LoadConfig(environment)
	s := settings{Config: config, environment: environment}
	errs := s.unknownNames()
	var addressErr error
	s.databaseURL, s.listenURL, addressErr = s.addresses()
	return s, errors.Join(append(errs, addressErr, s.checkChannels(), err)...)
}

// addresses are databaseURL and listenURL as of now: what stands in a file may
// have changed since the last time. The errors are those of loadSettings.
func (s settings) addresses() (databaseURL, listenURL string, err error) {
	databaseURL, err = s.secret(databaseVar)
	if err == nil {
		name := s.origin(databaseVar)
		if databaseURL == "" {
			name = "the set of PG* variables"
		}
		err = connectionError(name, databaseURL)
	}
	listenURL, listenErr := s.secret(listenVar)
	switch {
	case listenErr != nil:
		err = errors.Join(err, listenErr)
	case listenURL == "":
		listenURL = databaseURL
	case listenURL != databaseURL:
		err = errors.Join(err, connectionError(s.origin(listenVar), listenURL))
	}
	return databaseURL, listenURL, err
}

// secret is what a variable holds, or the file that the other variable names:
// its first and only line.
func (s settings) secret(name string) (string, error) {
	holds := "a connection string"
	switch {
	case name == webhookSecretVar:
		holds = "secrets that begin with whsec_"
	case !isDatabase(name):
		holds = "a URL"
	}
	path, given := s.environment[name+fileSuffix]
	switch {
	case !given:
		return s.environment[name], nil
	case s.environment[name] != "":
		return "", fmt.Errorf("%s and %s are both given; only one of them may be", name, name+fileSuffix)
	}
	shown := strconv.Quote(path)
	if holdsSecret(path) {
		shown = "(not shown)"
	}
	content, err := os.ReadFile(path) //nolint:gosec // it is the operator who names it
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		err = file.Err
	}
	if err != nil {
		return "", fmt.Errorf("%s names %s, which cannot be read: %w", name+fileSuffix, shown, err)
	}
	text := strings.TrimSpace(string(content))
	switch {
	case text == "":
		return "", fmt.Errorf("%s names %s, which is empty; it is to hold %s", name+fileSuffix, shown, holds)
	case strings.ContainsAny(text, "\r\n"):
		return "", fmt.Errorf("%s names %s, which has more than one line; it is to hold %s and nothing else", name+fileSuffix, shown, holds)
	}
	return text, nil
}

// holdsSecret reports whether somebody may have given in place of a file's path what
// the file is to hold.
func holdsSecret(path string) bool {
	return slices.ContainsFunc([]string{"://", "@", "=", "whsec_"}, func(sign string) bool { return strings.Contains(path, sign) })
}

// origin is the variable that a connection string comes from.
func (s settings) origin(name string) string {
	if s.environment[name+fileSuffix] != "" {
		return name + fileSuffix
	}
	return name
}

// inFile reports whether a connection string may change while the process runs.
func (s settings) inFile() bool {
	return s.origin(databaseVar) != databaseVar || s.origin(listenVar) != listenVar
}

// all lists every setting, those of the database first and unmasked.
func (s settings) all() []worker.Setting {
	var list []worker.Setting
	for _, secret := range secrets {
		file := worker.Setting{
			Name: secret.Name + fileSuffix, Value: s.environment[secret.Name+fileSuffix], Default: "-",
			Help: "a file that holds it, read again for each new connection",
		}
		if !isDatabase(secret.Name) {
			file.Help = "a file that holds it, read again for each delivery"
		}
		switch secret.Name {
		case databaseVar:
			secret.Value = s.databaseURL
		case listenVar:
			secret.Value = s.listenURL
		default:
			secret.Value, _ = s.secret(secret.Name) // what is wrong was said when it was loaded
		}
		list = append(list, secret, file)
	}
	return append(list, s.Settings()...)
}

// maskSecret shows what of a secret may be shown.
func maskSecret(name, value string) string {
	switch {
	case isDatabase(name):
		return maskConnection(value)
	case value == "":
		return ""
	case name == webhookSecretVar:
		return mask
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || strings.Contains(u.Path+u.RawQuery+u.Fragment, "@") { // where the password ends is a guess
		return mask
	}
	shown := u.Scheme + "://" + u.Host // its path and query may be what lets in
	if name == webhookVar && strings.Trim(u.Path, "/")+u.RawQuery != "" {
		shown += "/" + mask
	}
	return shown
}

// print writes every effective setting as NAME=value, secrets masked, first
// what the environment gives, then what it leaves to the defaults.
func (s settings) print(w io.Writer) error {
	var given, defaults strings.Builder
	line := func(to *strings.Builder, name, value string) {
		if strings.ContainsFunc(value, func(r rune) bool { return !strconv.IsPrint(r) }) {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(to, "%s=%s\n", name, value)
	}
	for _, row := range s.all() {
		from := row.Name
		if slices.ContainsFunc(secrets, func(secret worker.Setting) bool { return secret.Name == row.Name }) {
			row.Value = maskSecret(row.Name, row.Value)
			from = s.origin(row.Name)
		} else if strings.HasSuffix(row.Name, fileSuffix) && holdsSecret(row.Value) {
			row.Value = mask
		}
		if _, found := s.environment[from]; found {
			line(&given, row.Name, row.Value)
		} else if row.Default != "-" { // which stands for none
			line(&defaults, row.Name, row.Value)
		}
		if row.Name != databaseVar {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(pgVariables)) {
			if value := s.environment[name]; value != "" {
				line(&given, name, maskValue(pgVariables[name], value))
			}
		}
	}
	_, err := fmt.Fprintf(w, "# from the environment\n%s# defaults\n%s", &given, &defaults)
	return err
}

// settingsHelp is the table of all variables for --help.
func settingsHelp() string {
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, row := range (settings{}).all() {
		_, _ = fmt.Fprintf(table, "  %s\t%s\t%s\n", row.Name, row.Default, row.Help)
	}
	_ = table.Flush() // a strings.Builder does not fail
	return b.String()
}

// unknownNames refuses what looks like a setting of ours and is none: a typo
// would otherwise leave the default in force without a word.
func (s settings) unknownNames() []error {
	var known []string
	for _, row := range s.all() {
		known = append(known, row.Name)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.environment)) {
		ours := len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
		if !ours || slices.Contains(known, name) || s.isServiceLink(name) {
			continue
		}
		advice := "see `tokenalert run --help` for those that are"
		if nearest := nearestName(strings.ToUpper(name[len(prefix):]), known); nearest != "" {
			advice = "the nearest is " + nearest
		}
		errs = append(errs, fmt.Errorf("%s is not a setting; %s", name, advice))
	}
	return errs
}

// nearestName is the setting that was probably meant by what follows the prefix.
func nearestName(given string, known []string) string {
	rests := make([]string, len(known))
	for i, name := range known {
		rests[i] = strings.TrimPrefix(name, prefix)
	}
	if i := slices.Index(rests, worker.Nearest(given, rests)); i >= 0 {
		return known[i]
	}
	return ""
}

// isServiceLink reports whether the variable is one of those that Kubernetes
// puts into every pod for a Service called tokenalert or tokenalert-something
// (enableServiceLinks in the PodSpec): nobody set it, so it is no typo.
func (s settings) isServiceLink(name string) bool {
	for other := range s.environment {
		service, ok := strings.CutSuffix(other, "_SERVICE_HOST")
		if !ok || s.environment[service+"_SERVICE_PORT"] == "" {
			continue
		}
		link, ok := strings.CutPrefix(name, service+"_")
		if ok && (link == "PORT" || strings.HasPrefix(link, "PORT_") || strings.HasPrefix(link, "SERVICE_")) {
			return true
		}
	}
	return false
}
