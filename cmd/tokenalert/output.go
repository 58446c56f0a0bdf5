package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"tokenalert/store"
	"tokenalert/worker"
)

// outputFormat is the value of --output.
type outputFormat string

const (
	outputText outputFormat = "text"
	outputJSON outputFormat = "json"
)

var outputFormats = []string{string(outputText), string(outputJSON)}

func (f *outputFormat) String() string { return string(*f) }

// Type is what --help shows for the value.
func (f *outputFormat) Type() string { return strings.Join(outputFormats, "|") }

// Set is called with what was typed.
func (f *outputFormat) Set(value string) error {
	*f = outputFormat(value)
	return oneOf(value, outputFormats)
}

// oneOf refuses what is none of the words that a flag takes.
func oneOf(value string, words []string) error {
	if !slices.Contains(words, value) {
		return fmt.Errorf("must be one of %s", strings.Join(words, ", "))
	}
	return nil
}

// addOutputFlag gives a command the flag --output.
func addOutputFlag(cmd *cobra.Command) *outputFormat {
	format := outputText
	cmd.Flags().VarP(&format, "output", "o", "what to print: text for people, json for programs")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputFormats, cobra.ShellCompDirectiveNoFileComp)) // fails for a flag that is not there
	return &format
}

// printJSON prints one document, indented, times in RFC 3339.
func printJSON(w io.Writer, document any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(document)
}

// openDatabase opens the database that the environment names, for a command
// that only looks.
func openDatabase(command string) (*store.Store, settings, error) {
	s, err := loadSettings(os.Environ())
	if err != nil {
		return nil, s, err
	}
	database, err := store.OpenFor(command, s.databaseURL, s.listenURL)
	return database, s, err
}

// withDatabase runs a short command that takes the schema.
func withDatabase(cmd *cobra.Command, name string, f func(context.Context, *store.Store) error) error {
	ctx, stop := untilSignal(cmd.Context())
	defer stop()
	return askDatabase(ctx, name, f)
}

// askDatabase calls f with the database that the environment names, where our
// schema is installed.
func askDatabase(ctx context.Context, name string, f func(context.Context, *store.Store) error) error {
	database, err := openInstalled(ctx, name)
	if err != nil {
		return err
	}
	defer database.Close()
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return f(ctx, database)
}

// openInstalled is openDatabase where our schema is installed.
func openInstalled(ctx context.Context, name string) (*store.Store, error) {
	database, _, err := openDatabase(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if err := database.Installed(ctx); err != nil {
		database.Close()
		return nil, err
	}
	return database, nil
}

// terminalOf returns w where that is a terminal that can do more than print line
// after line, else nil.
func terminalOf(w io.Writer) *os.File {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || !term.IsTerminal(int(file.Fd())) {
		return nil
	}
	return file
}

// mediumOf is what a log on file is written to.
func mediumOf(file *os.File) worker.Medium {
	switch {
	case !term.IsTerminal(int(file.Fd())):
		return worker.Pipe
	case newView(file).plain:
		return worker.PlainTerminal
	}
	return worker.ColourTerminal
}
