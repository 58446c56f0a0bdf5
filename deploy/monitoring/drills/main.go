// Command drills tries the runbooks: it makes each fault on a private PostgreSQL
// with two workers, waits until a real Prometheus with the rules of
// deploy/components/monitoring fires the alert, runs the runbook's commands, and
// waits until no alert fires. The rules are the same but for their durations,
// each of which is divided by the same number (rules.go).
//
//	go -C deploy/monitoring run ./drills [-run ALERT] [-keep DIRECTORY] [-write PAGE]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/itchyny/gojq/cli"
	"golang.org/x/sync/errgroup"

	"tokenalert/deploy/monitoring/prometheus"
	"tokenalert/internal/module"
	"tokenalert/internal/page"
)

// atOnce is how many drills are played at the same time: they wait, mostly.
const atOnce = 5

func main() {
	if filepath.Base(os.Args[0]) == "jq" { // a link to this program, made by shell
		os.Exit(cli.Run())
	}
	only := flag.String("run", "", "try the runbook of this `alert` alone")
	keep := flag.String("keep", "", "leave logs, and what the commands answered, in this `directory`")
	write := flag.String("write", "", "write what was tried into this `page`")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := try(ctx, *only, *keep, *write); err != nil {
		fmt.Fprintln(os.Stderr, "drills:", err)
		os.Exit(1)
	}
}

func try(ctx context.Context, only, directory, write string) error {
	if directory == "" {
		var err error
		if directory, err = os.MkdirTemp("", "runbooks-"); err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(directory) }()
	}
	t, err := build(ctx, directory)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.SetLimit(atOnce)
	var mu sync.Mutex
	var failures []error
	results := make([]result, len(drills))
	tried := 0
	for i, d := range drills {
		if only != "" && d.alert != only {
			continue
		}
		tried++
		group.Go(func() error {
			r, err := d.play(ctx, t, filepath.Join(directory, fmt.Sprintf("%d-%s", i, d.alert)))
			mu.Lock()
			defer mu.Unlock()
			results[i] = r
			if err != nil {
				failures = append(failures, fmt.Errorf("%s, %s: %w", d.alert, d.fault, err))
				return nil
			}
			also := ""
			if len(r.others) > 0 {
				also = "; so did " + strings.Join(r.others, ", ")
			}
			fmt.Printf("%s: %s\n    fired after %.1f s%s; %d commands; resolved after %.1f s; every alert told once\n",
				d.alert, d.fault, r.fired.Seconds(), also, r.commands, r.resolved.Seconds())
			return nil
		})
	}
	_ = group.Wait() // failures are in failures
	switch {
	case len(failures) > 0:
		return errors.Join(failures...)
	case tried == 0:
		return fmt.Errorf("no drill is for an alert %q", only)
	case write == "":
		return nil
	}
	var table strings.Builder
	table.WriteString("| alert | fault | commands and queries run |\n|---|---|---:|\n")
	for i, d := range drills {
		fmt.Fprintf(&table, "| %s | %s | %d |\n", d.alert, d.fault, results[i].commands)
	}
	return page.Replace(write, "drills", table.String())
}

// build builds the programs, once for all drills, and reads the rules.
func build(ctx context.Context, directory string) (tools, error) {
	directory, err := filepath.Abs(directory)
	if err != nil {
		return tools{}, err
	}
	root, err := module.Root(ctx)
	if err != nil {
		return tools{}, err
	}
	bin := filepath.Join(directory, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return tools{}, err
	}
	rules, err := os.ReadFile(filepath.Join(root, "deploy", "components", "monitoring", "rules.yaml"))
	if err != nil {
		return tools{}, err
	}
	t := tools{root: root, tokenalert: filepath.Join(bin, "tokenalert"), rules: string(rules)}
	if err := module.Build(ctx, t.tokenalert); err != nil {
		return t, err
	}
	_, err = prometheus.Tool(ctx, "prometheus")
	return t, err
}
