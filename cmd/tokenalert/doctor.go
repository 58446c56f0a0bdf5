package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/charmbracelet/lipgloss"
	"github.com/spf13/cobra"

	"tokenalert/migrations"
	"tokenalert/store"
)

// Exit statuses of doctor.
const (
	statusWarnings exitStatus = 1
	statusBroken   exitStatus = 2
)

func newDoctor() *cobra.Command {
	var format *outputFormat
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with the database, and say what to do",
		Long: `Look at everything that can be wrong between the worker, the server and the host:
versions, the schema, ownership and grants (also after a restore without them),
a pooler in between, the index, triggers, publications, prepared and long
transactions, clocks and zones, rows that cannot be counted, the lead, the bell,
whether what commits is counted, and whether alerts are delivered. It changes
nothing, and reads neither prompt nor response.

Run it in the environment of the workers, with which it compares the database,
and as their role. As the owner of ai_usage_logs it sees more: what every role
that was granted has lost. Whatever a role may not see is a note that says which
privilege would show it.

Each finding says what to do. A command that ends with a semicolon is SQL; any
other is for a shell.

Exit status: 0 all is well, or there are only notes; 1 there are warnings (users
are told later, or not all of them); 2 something is broken (the worker or the
host fails), the database cannot be reached, or the command was used wrongly.`,
		Example: `  tokenalert doctor
  DATABASE_URL="$OWNER_DATABASE_URL" tokenalert doctor
  tokenalert doctor --output json | jq '.checks[] | select(.status == "broken")'`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			database, s, err := openDatabase("doctor")
			if err != nil {
				return usageError{err} // status 1 would say that it looked
			}
			defer database.Close()
			request, err := s.DoctorRequest()
			if err != nil {
				return usageError{err}
			}
			request.Delivers = len(s.channels().Names()) > 0
			diagnosis := database.Doctor(cmd.Context(), request)
			if *format == outputJSON {
				err = printJSON(cmd.OutOrStdout(), diagnosisDocument(diagnosis))
			} else {
				err = printDiagnosis(cmd.OutOrStdout(), diagnosis)
			}
			switch {
			case err != nil:
				return fmt.Errorf("print the diagnosis: %w", err)
			case diagnosis.Count(store.Broken) > 0:
				return statusBroken
			case diagnosis.Count(store.Warning) > 0:
				return statusWarnings
			}
			return nil
		},
	}
	format = addOutputFlag(cmd)
	return cmd
}

// What became of a check, beside the three severities.
const (
	checkOK      = "ok"
	checkSkipped = "skipped"
)

// checkStatus is the worst of a check's findings.
func checkStatus(x store.Examined) string {
	status := checkOK
	if x.Skipped != "" {
		status = checkSkipped
	}
	for _, severity := range []store.Severity{store.Note, store.Warning, store.Broken} {
		for _, f := range x.Findings {
			if f.Severity == severity {
				status = string(severity)
			}
		}
	}
	return status
}

type jsonDiagnosis struct {
	Version       string      `json:"version"`
	SchemaVersion int64       `json:"schema_version"` // this binary's
	Database      string      `json:"database,omitempty"`
	Role          string      `json:"role,omitempty"`
	Status        string      `json:"status"` // the worst of all: ok, note, warning or broken
	Checks        []jsonCheck `json:"checks"`
}

type jsonCheck struct {
	Check    string        `json:"check"`
	Status   string        `json:"status"` // ok, note, warning, broken or skipped
	Says     string        `json:"says,omitempty"`
	Findings []jsonFinding `json:"findings"`
}

type jsonFinding struct {
	Severity string   `json:"severity"`
	Says     string   `json:"says"`
	Remedy   string   `json:"remedy"`
	Commands []string `json:"commands"`
}

func diagnosisDocument(d store.Diagnosis) jsonDiagnosis {
	document := jsonDiagnosis{Version: buildVersion(), SchemaVersion: migrations.Version(), Database: d.Database, Role: d.Role, Status: checkOK}
	for _, severity := range []store.Severity{store.Note, store.Warning, store.Broken} {
		if d.Count(severity) > 0 {
			document.Status = string(severity)
		}
	}
	for _, x := range d.Checks {
		check := jsonCheck{Check: x.Check, Status: checkStatus(x), Findings: []jsonFinding{}}
		switch check.Status {
		case checkOK:
			check.Says = x.Well
		case checkSkipped:
			check.Says = "not looked at: " + x.Skipped
		}
		for _, f := range x.Findings {
			check.Findings = append(check.Findings, jsonFinding{string(f.Severity), f.Says, f.Remedy, append([]string{}, f.Commands...)})
		}
		document.Checks = append(document.Checks, check)
	}
	return document
}

// printDiagnosis prints a line for each check, and below what it found what to
// do about it.
func printDiagnosis(w io.Writer, d store.Diagnosis) error {
	r := lipgloss.NewRenderer(w)
	colour := func(ansi string) lipgloss.Style { return r.NewStyle().Foreground(lipgloss.Color(ansi)) }
	marks := map[string]string{
		checkOK:               colour("2").Render("✓"),
		checkSkipped:          colour("8").Render("-"),
		string(store.Note):    colour("4").Render("i"),
		string(store.Warning): colour("3").Render("!"),
		string(store.Broken):  colour("1").Bold(true).Render("✗"),
	}
	wide := 0
	for _, x := range d.Checks {
		wide = max(wide, len(x.Check))
	}
	var b strings.Builder
	line := func(status, name, says string) { fmt.Fprintf(&b, "%s %-*s  %s\n", marks[status], wide, name, says) }
	below := strings.Repeat(" ", wide+4)

	fmt.Fprintf(&b, "tokenalert %s, schema %d", buildVersion(), migrations.Version())
	if d.Database != "" {
		fmt.Fprintf(&b, "; database %s as role %s", plain(d.Database), plain(d.Role))
	}
	b.WriteString("\n\n")
	for _, x := range d.Checks {
		switch checkStatus(x) {
		case checkOK:
			line(checkOK, x.Check, plain(x.Well))
		case checkSkipped:
			line(checkSkipped, x.Check, "not looked at: "+plain(x.Skipped))
		}
		for _, f := range x.Findings {
			line(string(f.Severity), x.Check, strings.ReplaceAll(plainLines(f.Says), "\n", "\n"+below))
			if f.Remedy != "" {
				fmt.Fprintf(&b, "%s→ %s\n", below, plain(f.Remedy))
			}
			for _, command := range f.Commands {
				fmt.Fprintf(&b, "%s    %s\n", below, r.NewStyle().Bold(true).Render(plain(command)))
			}
		}
	}
	fmt.Fprintf(&b, "\n%s\n", summary(d))
	_, err := io.WriteString(w, b.String())
	return err
}

func summary(d store.Diagnosis) string {
	broken, warnings, notes := d.Count(store.Broken), d.Count(store.Warning), d.Count(store.Note)
	if broken+warnings+notes == 0 {
		return "all is well"
	}
	number := func(n int, one, many string) string {
		if n == 1 {
			return "1 " + one
		}
		return fmt.Sprintf("%d %s", n, many)
	}
	counts := fmt.Sprintf("%d broken, %s, %s", broken, number(warnings, "warning", "warnings"), number(notes, "note", "notes"))
	if broken+warnings == 0 {
		return "all is well: " + counts
	}
	return counts
}
