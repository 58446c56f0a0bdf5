package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"tokenalert/deploy/monitoring/prometheus"
)

// scrapeEvery is the interval of the PodMonitor, to be divided as the rules are.
const scrapeEvery = 15 * time.Second

// startPrometheus starts one with the rules in a hurry, and nothing to scrape yet.
func (s *site) startPrometheus(ctx context.Context, hurry time.Duration) error {
	rules := filepath.Join(s.directory, "rules.yaml")
	err := os.WriteFile(rules, []byte(hurried(s.tools.rules, hurry)), 0o600)
	if err != nil {
		return err
	}
	if s.prometheus, err = prometheus.Start(ctx, prometheus.Options{Rules: rules, Interval: scrapeEvery / hurry}); err != nil {
		return err
	}
	s.undo = append(s.undo, func() { _ = s.prometheus.Stop() })
	return nil
}

// firing are the alerts that fire, by name.
func (s *site) firing(ctx context.Context) (map[string]v1.Alert, error) {
	all, err := s.prometheus.API.Alerts(ctx)
	if err != nil {
		return nil, err
	}
	firing := map[string]v1.Alert{}
	for _, a := range all.Alerts {
		if a.State == v1.AlertStateFiring {
			firing[string(a.Labels[model.AlertNameLabel])] = a
		}
	}
	return firing, nil
}

// query is the answer to a query, as of now.
func (s *site) query(ctx context.Context, q string) (model.Value, error) {
	answer, _, _, err := s.prometheus.API.Query(ctx, q, time.Now())
	return answer, err
}

// quiet reports whether all is as it should be, and no alert is even pending.
func (s *site) quiet(ctx context.Context) (bool, error) {
	for query, want := range map[string]int{"count(up == 1)": 2, "sum(tokenalert_leader)": 1, "count(ALERTS) or vector(0)": 0} {
		answer, err := s.query(ctx, query)
		if err != nil {
			return false, err
		}
		if v, ok := answer.(model.Vector); !ok || len(v) != 1 || v[0].Value.String() != strconv.Itoa(want) {
			return false, nil
		}
	}
	return true, nil
}
