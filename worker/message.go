package worker

import (
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Language is one that users are written to in.
type Language string

// The languages that messages exist in.
const (
	Spanish    Language = "es"
	English    Language = "en"
	Portuguese Language = "pt"
)

// ParseLanguage reads a language tag by its primary subtag, in any case and
// with '-' or '_' after it: "pt-BR", "EN_us" and " es " are all understood.
// It reports false, and no language, for one that messages do not exist in.
func ParseLanguage(tag string) (Language, bool) {
	tag = strings.TrimSpace(tag)
	if end := strings.IndexAny(tag, "-_"); end >= 0 {
		tag = tag[:end]
	}
	lang := Language(strings.ToLower(tag))
	if _, known := wordings[lang]; !known {
		return "", false
	}
	return lang, true
}

// Notice is what a user is told about: usage that stands at or above a
// threshold of the limit.
type Notice struct {
	FullName   string
	Language   *string // users.language: nil, or any tag that ParseLanguage may or may not know
	Threshold  int     // per cent of TokenLimit
	TokensUsed int64
	TokenLimit int64
	PeriodEnd  time.Time      // the first instant of the next period
	Zone       *time.Location // whose date PeriodEnd is written in; nil means UTC
}

// Message is a notification as the user reads it: plain text, valid UTF-8
// without control characters, the title well within varchar(255).
type Message struct {
	Title, Body string
}

// Render writes n in the user's language, or in fallback where messages do
// not exist in it, or in Spanish where fallback is none either.
//
// Usage that has reached the limit is reported as that, and as AI being out of
// reach until the period ends, even where the highest threshold is below 100.
func Render(n Notice, fallback Language) Message {
	w := wordingFor(n.Language, fallback)
	spent := n.Threshold >= 100 || (n.TokenLimit > 0 && n.TokensUsed >= n.TokenLimit)

	var title string
	switch {
	case n.Threshold > 100:
		title = w.printer.Sprintf(w.exceeded, n.Threshold)
	case spent:
		title = w.reached
	case n.Threshold >= 90:
		title = "⚡ " + w.printer.Sprintf(w.crossed, n.Threshold)
	default:
		title = "📊 " + w.printer.Sprintf(w.crossed, n.Threshold)
	}

	greeting := w.greeting
	if name := displayName(n.FullName); name != "" {
		greeting = w.printer.Sprintf(w.greetingByName, name)
	}
	tokens := "tokens"
	if n.TokensUsed == 1 {
		tokens = "token"
	}
	usage := w.printer.Sprintf(w.usage, n.TokensUsed, tokens, w.percent(n), n.TokenLimit)
	ending := w.resets
	if spent {
		ending = w.unavailable
	}
	return Message{
		Title: title,
		Body:  greeting + " " + usage + " " + w.printer.Sprintf(ending, w.resetDate(n)),
	}
}

// PercentTenths is used as tenths of a per cent of limit, rounded down: 79.99 %
// is 799. Being rounded down, it is at or above ten times a threshold exactly
// when the usage is at or above that threshold. Usage below zero counts as
// none, a limit below one (unlimited) gives 0, and a quotient that no int64
// holds gives math.MaxInt64.
func PercentTenths(used, limit int64) int64 {
	if used <= 0 || limit <= 0 {
		return 0
	}
	high, low := bits.Mul64(uint64(used), 1000)
	if high >= uint64(limit) {
		return math.MaxInt64
	}
	quotient, _ := bits.Div64(high, low, uint64(limit))
	return int64(min(quotient, math.MaxInt64))
}

// wording is all that differs between two languages. Its texts are formats for
// printer, which groups the digits of every %d as the language does; so a year,
// which is never grouped, goes in as a string.
type wording struct {
	printer        *message.Printer
	greeting       string
	greetingByName string // name
	crossed        string // threshold
	reached        string
	exceeded       string // threshold
	usage          string // tokens used, "tokens" or "token", per cent of the limit, limit
	resets         string // date
	unavailable    string // date
	decimalSign    string
	date           func(day int, month, year string) string
	months         [12]string
}

var wordings = map[Language]*wording{
	Spanish: {
		printer:        message.NewPrinter(language.Spanish),
		greeting:       "Hola:",
		greetingByName: "Hola, %s:",
		crossed:        "%d%% de tokens de IA utilizados",
		reached:        "⚠️ Límite de tokens de IA alcanzado",
		exceeded:       "⚠️ Límite de tokens de IA superado: %d%%",
		usage:          "has usado %d %s de IA en este período, el %s de tu límite de %d.",
		resets:         "Tu límite se renueva el %s.",
		unavailable:    "La IA no estará disponible para ti hasta el %s, cuando se renueve tu límite.",
		decimalSign:    ",",
		date:           dayOfMonthOfYear,
		months: [12]string{
			"enero", "febrero", "marzo", "abril", "mayo", "junio",
			"julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre",
		},
	},
	English: {
		printer:        message.NewPrinter(language.English),
		greeting:       "Hello,",
		greetingByName: "Hello %s,",
		crossed:        "%d%% of AI tokens used",
		reached:        "⚠️ AI token limit reached",
		exceeded:       "⚠️ AI token limit exceeded: %d%%",
		usage:          "you have used %d AI %s this period, %s of your limit of %d.",
		resets:         "Your limit resets on %s.",
		unavailable:    "AI will not be available to you until %s, when your limit resets.",
		decimalSign:    ".",
		date: func(day int, month, year string) string {
			return month + " " + strconv.Itoa(day) + ", " + year
		},
		months: [12]string{
			"January", "February", "March", "April", "May", "June",
			"July", "August", "September", "October", "November", "December",
		},
	},
	Portuguese: {
		printer:        message.NewPrinter(language.Portuguese),
		greeting:       "Olá!",
		greetingByName: "Olá, %s!",
		crossed:        "%d%% dos tokens de IA utilizados",
		reached:        "⚠️ Limite de tokens de IA atingido",
		exceeded:       "⚠️ Limite de tokens de IA ultrapassado: %d%%",
		usage:          "Você usou %d %s de IA neste período, %s do seu limite de %d.",
		resets:         "Seu limite será renovado em %s.",
		unavailable:    "A IA não estará disponível para você até %s, quando seu limite será renovado.",
		decimalSign:    ",",
		date:           dayOfMonthOfYear,
		months: [12]string{
			"janeiro", "fevereiro", "março", "abril", "maio", "junho",
			"julho", "agosto", "setembro", "outubro", "novembro", "dezembro",
		},
	},
}

func wordingFor(tag *string, fallback Language) *wording {
	if tag != nil {
		if lang, ok := ParseLanguage(*tag); ok {
			return wordings[lang]
		}
	}
	if w, ok := wordings[fallback]; ok {
		return w
	}
	return wordings[Spanish]
}

func dayOfMonthOfYear(day int, month, year string) string {
	return strconv.Itoa(day) + " de " + month + " de " + year
}

func (w *wording) percent(n Notice) string {
	tenths := PercentTenths(n.TokensUsed, n.TokenLimit)
	return w.printer.Sprintf("%d", tenths/10) + w.decimalSign + strconv.FormatInt(tenths%10, 10) + "%"
}

func (w *wording) resetDate(n Notice) string {
	zone := n.Zone
	if zone == nil {
		zone = time.UTC
	}
	year, month, day := n.PeriodEnd.In(zone).Date()
	return w.date(day, w.months[month-1], strconv.Itoa(year))
}

// maxNameRunes bounds a name in a greeting, the mark of the cut included.
const maxNameRunes = 100

// joiners hold emoji and the letters of several scripts together. They are the
// only invisible format characters that a name keeps: the others can turn the
// direction of the text around them.
const joiners = "\u200c\u200d"

// displayName makes a name fit for a line of text: white space, control
// characters and broken bytes become single spaces, invisible format characters
// go, and a long name is cut. A name without anything to see comes back empty.
func displayName(fullName string) string {
	name := make([]rune, 0, maxNameRunes+1)
	visible, space := false, false
	for _, r := range fullName { // a broken byte ranges as U+FFFD
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r), r == unicode.ReplacementChar:
			space = len(name) > 0
			continue
		case unicode.Is(unicode.Cf, r) && !strings.ContainsRune(joiners, r):
			continue
		}
		if space {
			name, space = append(name, ' '), false
		}
		name = append(name, r)
		visible = visible || unicode.In(r, unicode.L, unicode.N, unicode.P, unicode.S)
		if len(name) > maxNameRunes {
			break
		}
	}
	if !visible {
		return ""
	}
	if len(name) > maxNameRunes {
		return strings.TrimRight(string(name[:maxNameRunes-1]), " "+joiners) + "…"
	}
	return string(name)
}
