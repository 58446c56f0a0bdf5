package webhook

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// anEvent is the example of docs/webhooks.md.
func anEvent() Event {
	santiago := time.FixedZone("-03", -3*60*60)
	return NewEvent(time.Date(2026, 11, 28, 11, 19, 12, 123_456_000, santiago), Alert{
		AlertID:        uuid.MustParse("6f2c1f0e-6f5b-5d0a-9c53-0f7a4b1f5a11"),
		UserID:         new(uuid.MustParse("0b0f6f0a-3f0e-4f8e-8a53-1c1f6f6f2f01")),
		OrganizationID: uuid.MustParse("5c7d7c4e-2f8a-4d55-9a44-7f2b7f1a9e02"),
		Threshold:      90, TokensUsed: 91_250, TokenLimit: 100_000, PercentUsed: 912,
		PeriodStart: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC),
		PeriodEnd:   time.Date(2026, 11, 30, 21, 0, 0, 0, santiago),
		Title:       "⚡ 90% of AI tokens used",
		Message:     "Hello, you have used 91,250 AI tokens this period, 91.2% of your limit of 100,000. Your limit resets on December 1, 2026.",
		Link:        "/admin/token-usage", Language: "en",
	})
}

// aBudgetEvent is the other example of docs/webhooks.md.
func aBudgetEvent() Event {
	event := anEvent()
	alert := event.Data
	alert.AlertID = uuid.MustParse("d3a5e0b2-8c1f-5e7a-b1d4-2f9c6a7e3b42")
	alert.Threshold, alert.TokensUsed, alert.TokenLimit, alert.PercentUsed = 80, 4_015_300, 5_000_000, 803
	alert.Title = "🏢 Your organization has used 80% of its AI tokens"
	alert.Message = "Hello, the members of your organization have used 4,015,300 AI tokens this period, 80.3% of a budget of 5,000,000. It resets on December 1, 2026."
	return NewBudgetEvent(event.Timestamp, alert)
}

func encoded(t *testing.T, event Event) []byte {
	t.Helper()
	body, err := json.Marshal(event)
	require.NoError(t, err)
	return body
}

// The page shows what is sent, but for its spaces.
func TestEventAsDocumented(t *testing.T) {
	t.Parallel()
	assert.JSONEq(t, block(t, "json"), string(encoded(t, anEvent())))
	assert.JSONEq(t, block(t, "json budget"), string(encoded(t, aBudgetEvent())))
	assert.Contains(t, string(encoded(t, anEvent())), `"timestamp":"2026-11-28T14:19:12.123456Z"`)
	assert.Contains(t, string(encoded(t, anEvent())), `"period_end":"2026-12-01T00:00:00Z"`)
}

func TestTenths(t *testing.T) {
	t.Parallel()
	for tenths, want := range map[Tenths]string{
		0: "0.0", 1: "0.1", 799: "79.9", 800: "80.0", 10_005: "1000.5", math.MaxInt64: "922337203685477580.7",
	} {
		text, err := json.Marshal(tenths)
		require.NoError(t, err)
		assert.Equal(t, want, string(text))
	}
}

func TestEventIsOfItsSchema(t *testing.T) {
	t.Parallel()
	for file, event := range map[string]Event{"webhook": anEvent(), "webhook-budget": aBudgetEvent()} {
		schema := readSchema(t, file)
		sent := value(t, encoded(t, event))
		require.Empty(t, schema.faults("", sent))

		// What is sent and what is described are the same properties, and all are always there.
		for name, pair := range map[string]struct {
			described *schemaNode
			sent      any
		}{
			"the event": {schema, sent},
			"its data":  {schema.Properties["data"], sent.(map[string]any)["data"]},
		} {
			described := slices.Sorted(maps.Keys(pair.described.Properties))
			assert.Equal(t, described, slices.Sorted(maps.Keys(pair.sent.(map[string]any))), name)
			assert.Equal(t, described, slices.Sorted(slices.Values(pair.described.Required)), name)
		}
		for name, property := range schema.Properties["data"].Properties {
			assert.NotEmpty(t, property.Description, name)
		}

		// The widest that the columns hold.
		wide := event
		wide.Data.TokensUsed, wide.Data.PercentUsed = math.MaxInt64, math.MaxInt64
		wide.Data.Message, wide.Data.Link = "\x00</script>\u2028\xff", ""
		require.Empty(t, schema.faults("", value(t, encoded(t, wide))))
	}
	test := anEvent()
	require.Empty(t, readSchema(t, "webhook").faults("", value(t, encoded(t, NewTest(test.Timestamp, test.Data)))))

	// The type says by which schema: neither takes the other's.
	assert.Contains(t, readSchema(t, "webhook").faults("", value(t, encoded(t, aBudgetEvent()))), "data lacks user_id")
	assert.Contains(t, readSchema(t, "webhook-budget").faults("", value(t, encoded(t, anEvent()))), "type is not token_budget.alert")
}

// A receiver may have been made by the schema as it was before budgets: of what it
// describes, nothing is changed or taken away.
func TestSchemaOfUsersIsAsItWas(t *testing.T) {
	t.Parallel()
	schema := readSchema(t, "webhook")
	assert.Equal(t, "urn:tokenalert:webhook:1", schema.ID)
	assert.Equal(t, []any{"token_limit.alert", "token_limit.test"}, schema.Properties["type"].Enum)
	assert.Subset(t, schema.Properties["data"].Required, []string{
		"alert_id", "user_id", "organization_id", "threshold", "tokens_used", "token_limit", "percent_used",
		"period_start", "period_end", "title", "message", "link", "language",
	})
}

// The rule that the test above rests on finds what is wrong.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	schema := readSchema(t, "webhook")
	body := string(encoded(t, anEvent()))
	for _, c := range []struct{ old, replacement, fault string }{
		{`"type":"token_limit.alert"`, `"type":"other"`, "type is none of the enumeration"},
		{`"version":1`, `"version":2`, "version is not 1"},
		{`"version":1,`, ``, "lacks version"},
		{`"threshold":90`, `"threshold":"90"`, "data.threshold is not a integer"},
		{`"threshold":90`, `"threshold":90.5`, "data.threshold is not a integer"},
		{`"percent_used":91.2`, `"percent_used":"91.2"`, "data.percent_used is not a number"},
		{`"percent_used":91.2`, `"percent_used":-0.1`, "data.percent_used is below 0"},
		{`"user_id":"`, `"user_id":"x`, "data.user_id is no uuid"},
		{`"period_end":"2026-12-01T00:00:00Z"`, `"period_end":"2026-11-30T21:00:00-03:00"`, "data.period_end does not match"},
		{`"language":"en"`, `"language":"fr"`, "data.language is none of"},
		{`"link":"/admin/token-usage"`, `"link":null`, "data.link is not a string"},
	} {
		changed := strings.Replace(body, c.old, c.replacement, 1)
		require.NotEqual(t, body, changed, c.old)
		assert.Contains(t, strings.Join(schema.faults("", value(t, []byte(changed))), "\n"), c.fault)
	}
}

// schemaNode is as much of JSON Schema as docs/webhook*.schema.json use;
// readSchema refuses any other keyword. There is no multipleOf: by the floating point
// of most validators, 89.3 is no multiple of 0.1.
type schemaNode struct {
	Schema      string                 `json:"$schema"`
	ID          string                 `json:"$id"`
	Title       string                 `json:"title"`
	Description string                 `json:"description"`
	Type        string                 `json:"type"`
	Const       any                    `json:"const"`
	Enum        []any                  `json:"enum"`
	Format      string                 `json:"format"`
	Pattern     string                 `json:"pattern"`
	Minimum     *json.Number           `json:"minimum"`
	MaxLength   *int                   `json:"maxLength"`
	Required    []string               `json:"required"`
	Properties  map[string]*schemaNode `json:"properties"`
}

func readSchema(t *testing.T, name string) *schemaNode {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name + ".schema.json")
	require.NoError(t, err)
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	decoder.DisallowUnknownFields()
	var schema schemaNode
	require.NoError(t, decoder.Decode(&schema))
	require.Equal(t, "https://json-schema.org/draft/2020-12/schema", schema.Schema)
	return &schema
}

func value(t *testing.T, text []byte) any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var v any
	require.NoError(t, decoder.Decode(&v))
	return v
}

// faults lists what value breaks of the schema.
func (s *schemaNode) faults(path string, value any) []string {
	var found []string
	fault := func(text string) { found = append(found, strings.TrimPrefix(path+" ", " ")+text) }
	number, isNumber := value.(json.Number)
	text, isText := value.(string)
	object, isObject := value.(map[string]any)
	ofType := map[string]bool{
		"string": isText, "object": isObject, "number": isNumber,
		"integer": isNumber && !strings.ContainsAny(number.String(), ".eE"),
	}
	if !ofType[s.Type] {
		fault("is not a " + s.Type)
		return found
	}
	if s.Const != nil && s.Const != value {
		fault("is not " + strings.Trim(string(must(json.Marshal(s.Const))), `"`))
	}
	if s.Enum != nil && !slices.Contains(s.Enum, value) {
		fault("is none of the enumeration")
	}
	if isText && s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(text) {
		fault("does not match " + s.Pattern)
	}
	if isText && s.MaxLength != nil && len([]rune(text)) > *s.MaxLength {
		fault("is too long")
	}
	switch s.Format {
	case "uuid":
		if _, err := uuid.Parse(text); err != nil {
			fault("is no uuid")
		}
	case "date-time":
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
			fault("is no date-time")
		}
	}
	if isNumber && s.Minimum != nil && must(number.Float64()) < must(s.Minimum.Float64()) {
		fault("is below " + s.Minimum.String())
	}
	for _, name := range s.Required {
		if _, there := object[name]; !there {
			fault("lacks " + name)
		}
	}
	for name, property := range s.Properties {
		if of, there := object[name]; there {
			found = append(found, property.faults(strings.TrimPrefix(path+"."+name, "."), of)...)
		}
	}
	return found
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
