package worker

import (
	"strconv"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// wording is what the texts of a language are filled in with. Its formats are for
// printer, which groups the digits of every %d as the language does; so a year,
// which is never grouped, goes in as a string.
type wording struct {
	printer     *message.Printer
	decimalSign string
	pace        string // date
	date        func(day int, month, year string) string
	months      [12]string
}

var wordings = map[Language]*wording{
	Spanish: {
		printer:     message.NewPrinter(language.Spanish),
		decimalSign: ",",
		pace:        "A este ritmo alcanzarás tu límite el %s.",
		date:        dayOfMonthOfYear,
		months: [12]string{
			"enero", "febrero", "marzo", "abril", "mayo", "junio",
			"julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre",
		},
	},
	English: {
		printer:     message.NewPrinter(language.English),
		decimalSign: ".",
		pace:        "At this pace you will reach your limit on %s.",
		date: func(day int, month, year string) string {
			return month + " " + strconv.Itoa(day) + ", " + year
		},
		months: [12]string{
			"January", "February", "March", "April", "May", "June",
			"July", "August", "September", "October", "November", "December",
		},
	},
	Portuguese: {
		printer:     message.NewPrinter(language.Portuguese),
		decimalSign: ",",
		pace:        "Neste ritmo, você atingirá seu limite em %s.",
		date:        dayOfMonthOfYear,
		months: [12]string{
			"janeiro", "fevereiro", "março", "abril", "maio", "junho",
			"julho", "agosto", "setembro", "outubro", "novembro", "dezembro",
		},
	},
}

func dayOfMonthOfYear(day int, month, year string) string {
	return strconv.Itoa(day) + " de " + month + " de " + year
}

func (w *wording) number(n int64) string { return w.printer.Sprintf("%d", n) }

func (w *wording) percent(n Notice) string {
	tenths := PercentTenths(n.TokensUsed, n.TokenLimit)
	return w.number(tenths/10) + w.decimalSign + strconv.FormatInt(tenths%10, 10) + "%"
}

// day is the date of an instant in the zone of n.
func (w *wording) day(n Notice, at time.Time) string {
	zone := n.Zone
	if zone == nil {
		zone = time.UTC
	}
	year, month, day := at.In(zone).Date()
	return w.date(day, w.months[month-1], strconv.Itoa(year))
}

// values are what the placeholders of n stand for.
func (w *wording) values(n Notice) map[string]string {
	word := "tokens" // in each of the languages
	if n.TokensUsed == 1 {
		word = "token"
	}
	values := map[string]string{
		"recipient_name": displayName(n.FullName),
		"threshold":      w.number(int64(n.Threshold)),
		"tokens_used":    w.number(n.TokensUsed),
		"token_limit":    w.number(n.TokenLimit),
		"token_word":     word,
		"percent":        w.percent(n),
		"reset_date":     w.day(n, n.PeriodEnd),
		"pace":           "",
		"pace_date":      "",
	}
	if at, ok := paceReached(n); ok {
		values["pace_date"] = w.day(n, at)
		values["pace"] = w.printer.Sprintf(w.pace, values["pace_date"])
	}
	return values
}
