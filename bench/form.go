package main

import "time"

// The cells.
const (
	cellCost    = "cost"
	cellParts   = "parts"
	cellLatency = "latency"
	cellCatchUp = "catchup"
	cellRest    = "rest"
	cellGrowth  = "growth"
)

var cellNames = []string{cellCost, cellParts, cellLatency, cellCatchUp, cellRest, cellGrowth}

// A form says how much of the cells is played.
type form struct {
	Name   string `json:"name"`
	Rounds int    `json:"rounds"`

	// What an insert costs.
	Clients   []int         `json:"clients"`
	Histories []int         `json:"histories"` // rows of the month that are there before
	Turns     int           `json:"turns"`     // of each competitor, under each setting, in each round
	Slice     time.Duration `json:"slice_ns"`  // how long a turn is measured

	// Parts of an insert.
	Parts int `json:"parts"` // turns

	// From commit to alert.
	Rates     []float64     `json:"rates"`       // rows a second
	RateFor   time.Duration `json:"rate_for_ns"` // at the most
	RateRows  int           `json:"rate_rows"`   // at the most
	IdleRows  int           `json:"idle_rows"`
	IdlePause time.Duration `json:"idle_pause_ns"`

	// Catching up.
	Backlogs []backlog `json:"backlogs"`

	// At rest.
	RestFor time.Duration `json:"rest_for_ns"`
	Starts  int           `json:"starts"` // of a worker, each timed

	// How a tick grows.
	Growth growthForm `json:"growth"`
}

// A backlog is what nobody has counted yet.
type backlog struct {
	Rows  int    `json:"rows"`
	Users int    `json:"users"`
	Law   string `json:"law"` // how the rows are shared out among the users
}

// part has no more than most of its rows, and fewer users in proportion, who so
// have as many each; 0: all of it.
func (b backlog) part(most int) backlog {
	if most > 0 && most < b.Rows {
		b.Rows, b.Users = most, b.Users*most/b.Rows
	}
	return b
}

const (
	evenly = "evenly"
	zipf   = "zipf"
)

var (
	subset = form{
		Name: "subset", Rounds: 3,
		Clients: []int{1, 16}, Histories: []int{0, 100_000}, Turns: 1, Slice: time.Second,
		Parts: 7,
		Rates: []float64{20, 200, 2000}, RateFor: 3 * time.Second, RateRows: 6000, IdleRows: 3, IdlePause: 1500 * time.Millisecond,
		Backlogs: []backlog{{200_000, 20_000, evenly}},
		RestFor:  30 * time.Second, Starts: 10,
		Growth: growthForm{
			Base:      setting{History: 100_000, Users: 10_000, Rows: 20},
			Histories: []int{100_000, 1_000_000}, Users: []int{1000, 10_000, 100_000}, Rows: []int{1, 20, 1000},
			Crossings: []int{0, 1, 10, 100, 1000}, Open: []int{0, 10, 200},
			Corrections: []int{0, 10_000, 100_000}, Alerts: []int{0, 36}, Budgets: []int{0, 1, 10}, Turns: 4, Ticks: 10,
		},
	}
	everything = form{
		Name: "full", Rounds: 5,
		Clients: []int{1, 16, 32, 64}, Histories: []int{0, 1_000_000}, Turns: 3, Slice: 2 * time.Second,
		Parts: 15,
		Rates: []float64{2, 20, 200, 2000}, RateFor: 30 * time.Second, RateRows: 20_000, IdleRows: 10, IdlePause: 3 * time.Second,
		Backlogs: []backlog{
			{1_000_000, 100_000, evenly},
			{1_000_000, 100_000, zipf},
			{10_000_000, 100_000, evenly},
			{10_000_000, 100_000, zipf},
		},
		RestFor: time.Minute, Starts: 10,
		Growth: growthForm{
			Base:      setting{History: 100_000, Users: 10_000, Rows: 20},
			Histories: []int{100_000, 1_000_000, 10_000_000}, Users: []int{1000, 10_000, 100_000, 1_000_000}, Rows: []int{1, 20, 1000},
			Crossings: []int{0, 1, 10, 100, 1000}, Open: []int{0, 10, 200},
			Corrections: []int{0, 10_000, 100_000, 1_000_000}, Alerts: []int{0, 36, 180}, Budgets: []int{0, 1, 10}, Turns: 7, Ticks: 10, Horizon: 10 * time.Minute,
		},
	}
	smoke = form{
		Name: "quick", Rounds: 1,
		Clients: []int{4}, Histories: []int{1000}, Turns: 1, Slice: 300 * time.Millisecond,
		Parts: 1,
		Rates: []float64{50}, RateFor: time.Second, RateRows: 50, IdleRows: 1, IdlePause: 500 * time.Millisecond,
		Backlogs: []backlog{{5000, 500, zipf}},
		RestFor:  3 * time.Second, Starts: 2,
		Growth: growthForm{
			Base:      setting{History: 1000, Users: 100, Rows: 2},
			Histories: []int{1000}, Users: []int{100, 200}, Rows: []int{2, 30},
			Crossings: []int{0, 30}, Open: []int{0, 5},
			Corrections: []int{0, 200}, Alerts: []int{0, 3}, Budgets: []int{0, 10}, Turns: 1, Ticks: 3, Horizon: 500 * time.Millisecond,
		},
	}
)
