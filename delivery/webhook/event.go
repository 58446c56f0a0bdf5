package webhook

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// What an Event says about its own form. Within a version properties are only
// added.
const (
	EventType    = "token_limit.alert"
	BudgetType   = "token_budget.alert"
	TestType     = "token_limit.test" // by hand; nobody has reached anything
	EventVersion = 1
)

// Event is the body of a request, as docs/webhook.schema.json describes it, or
// docs/webhook-budget.schema.json one of BudgetType. NewEvent and NewBudgetEvent
// make one.
type Event struct {
	Type      string    `json:"type"`
	Version   int       `json:"version"`
	Timestamp time.Time `json:"timestamp"` // when the alert was made, not when it is sent
	Data      Alert     `json:"data"`
}

// Alert is what a receiver is told. It leaves the platform: Title and Message
// are to be written without the user's name.
type Alert struct {
	AlertID        uuid.UUID  `json:"alert_id"`
	UserID         *uuid.UUID `json:"user_id,omitempty"` // nil: of the organization's budget
	OrganizationID uuid.UUID  `json:"organization_id"`
	Threshold      int32      `json:"threshold"` // per cent of TokenLimit
	TokensUsed     int64      `json:"tokens_used"`
	TokenLimit     int64      `json:"token_limit"`
	PercentUsed    Tenths     `json:"percent_used"`
	PeriodStart    time.Time  `json:"period_start"`
	PeriodEnd      time.Time  `json:"period_end"` // the first instant of the next period
	Title          string     `json:"title"`
	Message        string     `json:"message"`
	Link           string     `json:"link"`
	Language       string     `json:"language"` // of Title and Message: es, en or pt
}

// NewEvent is the event of an alert that was made at that time. Its instants
// are in UTC, whatever zone they came in.
func NewEvent(at time.Time, alert Alert) Event {
	alert.PeriodStart = alert.PeriodStart.UTC()
	alert.PeriodEnd = alert.PeriodEnd.UTC()
	return Event{Type: EventType, Version: EventVersion, Timestamp: at.UTC(), Data: alert}
}

// NewBudgetEvent is NewEvent of an organization's budget.
func NewBudgetEvent(at time.Time, alert Alert) Event {
	event := NewEvent(at, alert)
	event.Type, event.Data.UserID = BudgetType, nil
	return event
}

// NewTest is an event that tells of nothing.
func NewTest(at time.Time, alert Alert) Event {
	event := NewEvent(at, alert)
	event.Type = TestType
	return event
}

// Tenths of a per cent are written with one decimal, exactly: 799 is 79.9.
type Tenths int64

// MarshalJSON implements json.Marshaler.
func (t Tenths) MarshalJSON() ([]byte, error) {
	return strconv.AppendInt(append(strconv.AppendInt(nil, int64(t)/10, 10), '.'), int64(t)%10, 10), nil
}

var _ json.Marshaler = Tenths(0)
