package worker

import (
	"math"
	"math/bits"
	"strings"
	"time"
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

// Kind is what a message says. There is a title and a message for each.
type Kind string

// The kinds.
const (
	KindWarning  Kind = "warning"  // below 90 %
	KindNear     Kind = "near"     // from 90 %, and the limit not reached
	KindReached  Kind = "reached"  // the limit
	KindExceeded Kind = "exceeded" // a threshold above 100 %
	KindAdmin    Kind = "admin"    // to an admin, about somebody else, whatever the threshold
	KindBudget   Kind = "budget"   // to an admin, about the organization's budget, whatever the threshold
)

var (
	languages = []Language{Spanish, English, Portuguese}
	kinds     = []Kind{KindWarning, KindNear, KindReached, KindExceeded, KindAdmin, KindBudget}
)

// Notice is what a user is told about: usage that stands at or above a
// threshold of the limit. All but the user's name and language, and the zone that
// is set, is what the alert row holds, so that the same message can be written again
// later.
type Notice struct {
	FullName string  // of who is told
	About    *string // the name of who used the tokens, where an admin is told; else nil
	Budget   bool    // an admin is told of the organization's budget; About is nil
	Language *string // users.language: nil, or any tag that ParseLanguage may or may not know
	// OrganizationLanguage is for who has none that it knows.
	OrganizationLanguage *string
	Threshold            int // per cent of TokenLimit
	TokensUsed           int64
	TokenLimit           int64
	PeriodStart          time.Time
	PeriodEnd            time.Time      // the first instant of the next period
	Now                  time.Time      // the instant of the tick, which the alert row has as created_at
	Zone                 *time.Location // whose dates are written; nil means UTC
}

// Kind is the kind of message that tells of n. Usage that has reached the limit
// is reported as that, and as AI being out of reach until the period ends, even
// where the highest threshold is below 100.
func (n Notice) Kind() Kind {
	switch {
	case n.Budget:
		return KindBudget
	case n.About != nil:
		return KindAdmin
	case n.Threshold > 100:
		return KindExceeded
	case n.Threshold == 100, n.TokenLimit > 0 && n.TokensUsed >= n.TokenLimit:
		return KindReached
	case n.Threshold >= 90:
		return KindNear
	}
	return KindWarning
}

// Message is a notification as the user reads it: plain text of one line, valid
// UTF-8 without control characters, the title of 255 characters at most, which
// is what notifications.title holds.
type Message struct {
	Title, Body string
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
