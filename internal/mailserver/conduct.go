package mailserver

import (
	"errors"
	"sync"

	"github.com/emersion/go-smtp"
)

// ErrHang, for an answer, has the client wait until it gives up or the test ends.
// ErrHangUp ends the connection.
var (
	ErrHang   = errors.New("hang")
	ErrHangUp = errors.New("hang up")
)

// Refusal is an answer that refuses: a code, the enhanced code of RFC 3463, and
// a text.
func Refusal(code int, enhanced [3]int, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text}
}

// Refuse refuses every recipient so, or whoever it stands for.
func Refuse(code int, enhanced [3]int, text string) func(string) error {
	return func(string) error { return Refusal(code, enhanced, text) }
}

// Greylist asks each recipient's first messages to be sent again later.
func Greylist(times int) func(to string) error {
	var mu sync.Mutex
	seen := map[string]int{}
	return func(to string) error {
		mu.Lock()
		defer mu.Unlock()
		if seen[to]++; seen[to] <= times {
			return Refusal(451, [3]int{4, 7, 1}, "greylisted, try again")
		}
		return nil
	}
}
