package worker

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// wording is what the texts of a language are filled in with. The printer groups
// the digits of a number as the language does, all but those of a year.
type wording struct {
	printer     *message.Printer
	decimalSign string
	pace        string // with %s for the date
	paceOfOther string // likewise, to an admin
	date        func(day int, month, year string) string
	months      [12]string
}

var wordings = map[Language]*wording{
	Spanish: {
		printer:     message.NewPrinter(language.Spanish),
		decimalSign: ",",
		pace:        "A este ritmo alcanzarás tu límite el %s.",
		paceOfOther: "A este ritmo se alcanzará el límite el %s.",
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
		paceOfOther: "At this pace the limit will be reached on %s.",
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
		paceOfOther: "Neste ritmo, o limite será atingido em %s.",
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

// filling is what the placeholders stand for in one notice. Most texts need few
// of them, and a tick may tell ten thousand users.
type filling struct {
	*wording
	n        Notice
	name     string
	paceDate string // "": none
}

func (w *wording) filling(n Notice) *filling {
	f := &filling{wording: w, n: n, name: displayName(n.FullName)}
	if at, ok := paceReached(n); ok {
		f.paceDate = w.day(n, at)
	}
	return f
}

// value is what a placeholder stands for.
func (f *filling) value(placeholder string) string {
	switch placeholder {
	case "recipient_name":
		return f.name
	case "user_name":
		if f.n.About != nil {
			return displayName(*f.n.About)
		}
		if f.n.Budget {
			return ""
		}
		return f.name
	case "threshold":
		return f.number(int64(f.n.Threshold))
	case "tokens_used":
		return f.number(f.n.TokensUsed)
	case "token_limit":
		return f.number(f.n.TokenLimit)
	case "token_word": // in each of the languages
		if f.n.TokensUsed == 1 {
			return "token"
		}
		return "tokens"
	case "percent":
		return f.percent(f.n)
	case "reset_date":
		return f.day(f.n, f.n.PeriodEnd)
	case "pace_date":
		return f.paceDate
	case "pace":
		if f.paceDate == "" {
			return ""
		}
		sentence := f.pace
		if f.n.About != nil || f.n.Budget {
			sentence = f.paceOfOther
		}
		return strings.Replace(sentence, "%s", f.paceDate, 1)
	}
	return ""
}
