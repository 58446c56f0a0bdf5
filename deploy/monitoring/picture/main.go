// Command picture draws the dashboard as docs/dashboard.svg, from a run: users work on
// a private PostgreSQL, two workers count, tell and post to a receiver that is away for
// a minute, the one that leads is killed, and a real Prometheus scrapes them and answers
// the dashboard's own queries.
//
//	go run ./picture ../components/monitoring/dashboard.json ../../docs/dashboard.svg
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"tokenalert/deploy/monitoring/dashboard"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: picture DASHBOARD.json FILE.svg")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, from, to string) error {
	d, err := dashboard.Read(from)
	if err != nil {
		return err
	}
	var answers []answer
	p, err := play(ctx, func(api v1.API, p played) error {
		answers, err = ask(ctx, api, d, p)
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(to, []byte(draw(d, answers, p)), 0o644)
}

// answer is what Prometheus said to the queries of one panel.
type answer struct{ series []series }

type series struct {
	name   string
	points []model.SamplePair
}

// points in the picture's width are about as many as there are pixels.
const points = 240

// ask runs the queries of each panel over the time that was played, those of a stat
// at its end.
func ask(ctx context.Context, api v1.API, d *dashboard.Dashboard, p played) ([]answer, error) {
	step := max(p.end.Sub(p.begin)/points, scrapeEvery).Round(scrapeEvery)
	variables := map[string]string{
		"namespace": namespace, "job": job,
		"__range": seconds(p.end.Sub(p.begin)),
		// As Grafana works it out.
		"__rate_interval": seconds(max(step+scrapeEvery, 4*scrapeEvery)),
	}
	var answers []answer
	for _, panel := range d.Panels {
		var a answer
		for _, target := range panel.Targets {
			query := dashboard.Fill(target.Expr, variables)
			found, err := query1(ctx, api, panel.Type, query, v1.Range{Start: p.begin, End: p.end, Step: step})
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", panel.Title, query, err)
			}
			named := make([]series, 0, len(found))
			for _, s := range found {
				named = append(named, series{legend(target.Legend, s.Metric), s.Values})
			}
			slices.SortFunc(named, func(a, b series) int { return cmp.Compare(a.name, b.name) })
			a.series = append(a.series, named...)
		}
		answers = append(answers, a)
	}
	return answers, nil
}

func query1(ctx context.Context, api v1.API, kind, query string, over v1.Range) (model.Matrix, error) {
	if kind != "stat" {
		value, _, _, err := api.QueryRange(ctx, query, over)
		if err != nil {
			return nil, err
		}
		return value.(model.Matrix), nil //nolint:errcheck // a range has no other type
	}
	value, _, _, err := api.Query(ctx, query, over.End)
	if err != nil {
		return nil, err
	}
	var m model.Matrix
	for _, s := range value.(model.Vector) { //nolint:errcheck // the dashboard's queries are of vectors
		m = append(m, &model.SampleStream{Metric: s.Metric, Values: []model.SamplePair{{Timestamp: s.Timestamp, Value: s.Value}}})
	}
	return m, nil
}

// legend names a series by its labels, as Grafana does.
func legend(format string, labels model.Metric) string {
	for name, value := range labels {
		format = strings.ReplaceAll(format, "{{"+string(name)+"}}", string(value))
	}
	return format
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0fs", d.Seconds()) }
