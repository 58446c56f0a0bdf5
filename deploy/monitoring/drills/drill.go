package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tokenalert/internal/runbook"
)

// A drill is a fault, and how its runbook gets rid of it.
type drill struct {
	alert    string
	fault    string            // in words
	settings []string          // of the workers
	server   map[string]string // postgresql.conf
	hurry    time.Duration     // 0: defaultHurry

	receives bool // workers post alerts to a receiver

	// strike makes the fault.
	strike func(context.Context, *site) error
	// says is what the commands of Diagnosis must show: the cause.
	says []string
	// mend does what no command of Mitigation can, before them; nil: nothing.
	mend func(context.Context, *site) error
	// cluster does what a command of Mitigation does that needs a cluster; nil: none does.
	cluster func(context.Context, *site) error
}

// A result is what came of a drill.
type result struct {
	fired, resolved time.Duration // after the fault, after the last command
	commands        int
	others          []string // alerts that fired besides
}

func (d *drill) play(ctx context.Context, t tools, directory string) (result, error) {
	var r result
	book, err := runbook.Read(d.page(t.root))
	if err != nil {
		return r, err
	}
	s, err := openSite(ctx, t, directory, d)
	if err != nil {
		return r, err
	}
	defer s.close()

	began := time.Now()
	if err := d.strike(ctx, s); err != nil {
		return r, fmt.Errorf("make the fault: %w", err)
	}
	if err := s.exhaust(ctx, s.during); err != nil {
		return r, fmt.Errorf("the host: %w", err)
	}
	if err := until(ctx, d.alert+" fires", func(ctx context.Context) (bool, error) {
		firing, err := s.firing(ctx)
		a, fires := firing[d.alert]
		if fires && !strings.HasSuffix(string(a.Annotations["runbook_url"]), "docs/runbooks/"+d.alert+".md") {
			return false, fmt.Errorf("it names another runbook: %q", a.Annotations["runbook_url"])
		}
		return fires, err
	}); err != nil {
		return r, err
	}
	r.fired = time.Since(began)

	answers, err := s.follow(ctx, preamble, book["Diagnosis"], &r)
	if err != nil {
		return r, fmt.Errorf("diagnosis: %w", err)
	}
	for _, want := range d.says {
		if !strings.Contains(answers, want) {
			return r, fmt.Errorf("the diagnosis does not answer %q:\n%s", want, answers)
		}
	}
	firing, err := s.firing(ctx)
	if err != nil {
		return r, err
	}
	for name := range firing {
		if name != d.alert {
			r.others = append(r.others, name)
		}
	}
	slices.Sort(r.others)
	if _, fires := firing[d.alert]; !fires {
		return r, errors.New("the alert was resolved before anything was done")
	}

	if d.mend != nil {
		if err := d.mend(ctx, s); err != nil {
			return r, fmt.Errorf("mitigation: %w", err)
		}
	}
	if _, err := s.follow(ctx, "", book["Mitigation"], &r); err != nil {
		return r, fmt.Errorf("mitigation: %w", err)
	}
	if d.cluster != nil {
		if err := d.cluster(ctx, s); err != nil {
			return r, fmt.Errorf("mitigation: %w", err)
		}
	}
	began = time.Now()
	if err := until(ctx, "no alert fires", func(ctx context.Context) (bool, error) {
		firing, err := s.firing(ctx)
		return len(firing) == 0, err
	}); err != nil {
		return r, err
	}
	r.resolved = time.Since(began)
	if err := errors.Join(s.exhaust(ctx, s.after), s.endTraffic()); err != nil {
		return r, fmt.Errorf("the host: %w", err)
	}
	if err := s.audit(ctx); err != nil {
		return r, err
	}
	return r, s.stopWorkers()
}

func (d *drill) page(root string) string {
	return filepath.Join(root, "docs", "runbooks", d.alert+".md")
}

// preamble lets a subcommand exit with the status by which it says that it found
// something: a diagnosis goes on then.
const preamble = `tokenalert() { command tokenalert "$@" || [ $? -le 2 ]; }
`

// follow runs the commands of a section, in a shell that has been told what is
// before, and the queries, and returns what they answered.
func (s *site) follow(ctx context.Context, before string, blocks []runbook.Block, r *result) (string, error) {
	var typed, answers strings.Builder // typed has what was typed as well
	for _, b := range blocks {
		switch b.Language {
		case "promql":
			for query := range strings.Lines(b.Text) {
				answer, err := s.query(ctx, strings.TrimSpace(query))
				if err != nil {
					return "", fmt.Errorf("%s: %w", query, err)
				}
				fmt.Fprintf(&typed, "%s%s\n", query, answer)
				fmt.Fprintln(&answers, answer)
				r.commands++
			}
		case "sh":
			answer, err := s.shell(ctx, before+b.Text)
			if err != nil {
				return "", fmt.Errorf("%w:\n%s%s", err, b.Text, answer)
			}
			fmt.Fprintf(&typed, "%s%s\n", b.Text, answer)
			fmt.Fprintln(&answers, answer)
			r.commands += commands(b.Text)
		default:
			return "", fmt.Errorf("a block of %s is neither commands nor queries", b.Language)
		}
	}
	return answers.String(), os.WriteFile(filepath.Join(s.directory, fmt.Sprintf("followed-%d.txt", r.commands)), []byte(typed.String()), 0o600)
}

// commands counts those that are run: psql's, ours, and what reads the logs.
func commands(text string) int {
	n := 0
	for line := range strings.Lines(text) {
		for _, begins := range []string{"psql ", "tokenalert ", `DATABASE_URL="$OWNER_DATABASE_URL" tokenalert `} {
			if strings.HasPrefix(strings.TrimPrefix(strings.TrimSpace(line), "TOKENALERT_LISTEN_URL= "), begins) {
				n++
			}
		}
		if strings.HasPrefix(line, "kubectl logs ") && strings.Contains(line, "|") {
			n++
		}
	}
	return n
}

// shell types a block into a shell in which the variables of docs/runbooks/README.md
// are set. kubectl has no cluster there: it prints the workers' logs, and nothing
// else. jq is the one written in Go.
func (s *site) shell(ctx context.Context, text string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	bin, err := s.bin()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	cmd.Dir = s.tools.root
	cmd.Env = slices.Concat(s.environment(), s.variables, []string{
		"PATH=" + bin + ":" + filepath.Dir(s.tools.tokenalert) + ":" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"DATABASE_URL=" + s.worker, "OWNER_DATABASE_URL=" + s.owner, "ADMIN_DATABASE_URL=" + s.admin,
	})
	out, err := cmd.CombinedOutput()
	if err == nil && strings.Contains(string(out), "unknown ") {
		err = errors.New("a command is used wrongly")
	}
	return string(out), err
}

// bin is the folder with that kubectl and that jq.
func (s *site) bin() (string, error) {
	bin := filepath.Join(s.directory, "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin, nil
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	kubectl := "#!/bin/sh\n" + `case "$*" in logs*' -c tokenalert '*) cat "` + s.directory + `"/tokenalert-*.log ;; *) echo needs a cluster ;; esac` + "\n"
	return bin, errors.Join(os.Symlink(self, filepath.Join(bin, "jq")), os.WriteFile(filepath.Join(bin, "kubectl"), []byte(kubectl), 0o755))
}
