// Package dashboard reads the Grafana dashboard, as far as its queries and where its
// panels stand.
package dashboard

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Dashboard is what Grafana shows.
type Dashboard struct {
	Title      string  `json:"title"`
	Panels     []Panel `json:"panels"`
	Templating struct {
		List []Variable `json:"list"`
	} `json:"templating"`
}

// Variable is what is chosen above the panels.
type Variable struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Definition string `json:"definition"` // of one that is asked of Prometheus
}

// Panel is a picture of some queries.
type Panel struct {
	Title   string   `json:"title"`
	Type    string   `json:"type"` // stat or timeseries
	Place   Place    `json:"gridPos"`
	Targets []Target `json:"targets"`
	Field   struct {
		Defaults Defaults `json:"defaults"`
	} `json:"fieldConfig"`
	Options struct {
		TextMode string `json:"textMode"` // name: the series' in place of its value
	} `json:"options"`
}

// Place is where a panel is, on a grid of 24 columns.
type Place struct{ X, Y, W, H int }

// Target is a query, and what its series are called.
type Target struct {
	Expr   string `json:"expr"`
	Legend string `json:"legendFormat"`
}

// Defaults say how values are shown.
type Defaults struct {
	Unit       string   `json:"unit"`
	NoValue    string   `json:"noValue"`
	Max        *float64 `json:"max"`
	Decimals   *int     `json:"decimals"`
	Thresholds struct {
		Steps []Step `json:"steps"`
	} `json:"thresholds"`
	Custom struct {
		DrawStyle     string `json:"drawStyle"`         // line unless bars
		Interpolation string `json:"lineInterpolation"` // linear unless stepAfter
	} `json:"custom"`
}

// Step is a colour from a value on; nil: from the lowest.
type Step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"`
}

// Read reads it.
func Read(file string) (*Dashboard, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := &Dashboard{}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return d, nil
}

// Fill puts values in place of the variables, as Grafana does.
func Fill(query string, variables map[string]string) string {
	var pairs []string
	for name, value := range variables {
		pairs = append(pairs, "$"+name, value)
	}
	return strings.NewReplacer(pairs...).Replace(query)
}
