package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
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
	prefix      = "TOKENALERT_"
	databaseVar = "DATABASE_URL"
	listenVar   = "TOKENALERT_LISTEN_URL"
	fileSuffix  = "_FILE"
)

// loadSettings reads environ, which has the form of os.Environ, and reports
// every error at once. No error holds a connection string or a part of one.
// PG* variables are not looked up in environ, except for print: pgx reads them
// from the process's own environment.
func loadSettings(environ []string) (settings, error) {
	environment := env.ToMap(environ)
	for _, name := range []string{databaseVar, listenVar, databaseVar + fileSuffix, listenVar + fileSuffix} {
		if environment[name] == "" {
			delete(environment, name)
		}
	}
	config, err := worker.LoadConfig(environment)
	s := settings{Config: config, environment: environment}
	errs := s.unknownNames()
	var addressErr error
	s.databaseURL, s.listenURL, addressErr = s.addresses()
	return s, errors.Join(append(errs, addressErr, err)...)
}

// addresses are databaseURL and listenURL as of now: what stands in a file may
// have changed since the last time. The errors are those of loadSettings.
func (s settings) addresses() (databaseURL, listenURL string, err error) {
	databaseURL, err = s.address(databaseVar)
	if err == nil {
		if fault := connectionFault(databaseURL); fault != "" {
			name := s.origin(databaseVar)
			if databaseURL == "" {
				name = "the set of PG* variables"
			}
			err = fmt.Errorf("%s %s", name, fault)
		}
	}
	listenURL, listenErr := s.address(listenVar)
	switch {
	case listenErr != nil:
		err = errors.Join(err, listenErr)
	case listenURL == "":
		listenURL = databaseURL
	case listenURL != databaseURL:
		if fault := connectionFault(listenURL); fault != "" {
			err = errors.Join(err, fmt.Errorf("%s %s", s.origin(listenVar), fault))
		}
	}
	return databaseURL, listenURL, err
}

// address is the connection string that a variable holds, or the file that the
// other variable names: its first and only line.
func (s settings) address(name string) (string, error) {
	path, given := s.environment[name+fileSuffix]
	switch {
	case !given:
		return s.environment[name], nil
	case s.environment[name] != "":
		return "", fmt.Errorf("%s and %s are both given; only one of them may be", name, name+fileSuffix)
	}
	content, err := os.ReadFile(path) //nolint:gosec // it is the operator who names it
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		err = file.Err
	}
	if err != nil {
		return "", fmt.Errorf("%s names %q, which cannot be read: %w", name+fileSuffix, path, err)
	}
	text := strings.TrimSpace(string(content))
	switch {
	case text == "":
		return "", fmt.Errorf("%s names %q, which is empty; it is to hold a connection string", name+fileSuffix, path)
	case strings.ContainsAny(text, "\r\n"):
		return "", fmt.Errorf("%s names %q, which has more than one line; it is to hold a connection string and nothing else", name+fileSuffix, path)
	}
	return text, nil
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
	return append([]worker.Setting{
		{
			Name: databaseVar, Value: s.databaseURL, Default: "PG* variables",
			Help: "the host's database: a URL, or keyword=value",
		},
		{
			Name: databaseVar + fileSuffix, Value: s.environment[databaseVar+fileSuffix], Default: "-",
			Help: "a file that holds it, read again for each new connection",
		},
		{
			Name: listenVar, Value: s.listenURL, Default: databaseVar,
			Help: "a direct connection, where the first goes through a pooler",
		},
		{
			Name: listenVar + fileSuffix, Value: s.environment[listenVar+fileSuffix], Default: "-",
			Help: "a file that holds it, read again for each new connection",
		},
	}, s.Settings()...)
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
		if row.Name == databaseVar || row.Name == listenVar {
			row.Value = maskConnection(row.Value)
			from = s.origin(row.Name)
		}
		if _, found := s.environment[from]; found {
			line(&given, row.Name, row.Value)
		} else if !strings.HasSuffix(row.Name, fileSuffix) { // which have no default
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
