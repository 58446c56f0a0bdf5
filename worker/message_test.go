package worker

import (
	"math"
	"math/big"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func render(n Notice, fallback Language) Message { return BuiltInWords(fallback).Render(n) }

func december() time.Time { return time.Date(2026, time.December, 1, 0, 0, 0, 0, time.UTC) }

func TestRenderTexts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		language  string
		threshold int
		used      int64
		limit     int64
		want      Message
	}{
		{"es", 80, 1_234_567, 1_500_000, Message{
			"📊 80% de tokens de IA utilizados",
			"Hola, Ana Núñez: has usado 1.234.567 tokens de IA en este período, el 82,3% de tu límite de 1.500.000. Tu límite se renueva el 1 de diciembre de 2026.",
		}},
		{"es", 90, 95_000, 100_000, Message{
			"⚡ 90% de tokens de IA utilizados",
			"Hola, Ana Núñez: has usado 95.000 tokens de IA en este período, el 95,0% de tu límite de 100.000. Tu límite se renueva el 1 de diciembre de 2026.",
		}},
		{"es", 100, 105_040, 100_000, Message{
			"⚠️ Límite de tokens de IA alcanzado",
			"Hola, Ana Núñez: has usado 105.040 tokens de IA en este período, el 105,0% de tu límite de 100.000. La IA no estará disponible para ti hasta el 1 de diciembre de 2026, cuando se renueve tu límite.",
		}},
		{"es", 150, 151_999, 100_000, Message{
			"⚠️ Límite de tokens de IA superado: 150%",
			"Hola, Ana Núñez: has usado 151.999 tokens de IA en este período, el 151,9% de tu límite de 100.000. La IA no estará disponible para ti hasta el 1 de diciembre de 2026, cuando se renueve tu límite.",
		}},
		{"en", 80, 1_234_567, 1_500_000, Message{
			"📊 80% of AI tokens used",
			"Hello Ana Núñez, you have used 1,234,567 AI tokens this period, 82.3% of your limit of 1,500,000. Your limit resets on December 1, 2026.",
		}},
		{"en", 90, 95_000, 100_000, Message{
			"⚡ 90% of AI tokens used",
			"Hello Ana Núñez, you have used 95,000 AI tokens this period, 95.0% of your limit of 100,000. Your limit resets on December 1, 2026.",
		}},
		{"en", 100, 105_040, 100_000, Message{
			"⚠️ AI token limit reached",
			"Hello Ana Núñez, you have used 105,040 AI tokens this period, 105.0% of your limit of 100,000. AI will not be available to you until December 1, 2026, when your limit resets.",
		}},
		{"en", 150, 151_999, 100_000, Message{
			"⚠️ AI token limit exceeded: 150%",
			"Hello Ana Núñez, you have used 151,999 AI tokens this period, 151.9% of your limit of 100,000. AI will not be available to you until December 1, 2026, when your limit resets.",
		}},
		{"pt", 80, 1_234_567, 1_500_000, Message{
			"📊 80% dos tokens de IA utilizados",
			"Olá, Ana Núñez! Você usou 1.234.567 tokens de IA neste período, 82,3% do seu limite de 1.500.000. Seu limite será renovado em 1 de dezembro de 2026.",
		}},
		{"pt", 90, 95_000, 100_000, Message{
			"⚡ 90% dos tokens de IA utilizados",
			"Olá, Ana Núñez! Você usou 95.000 tokens de IA neste período, 95,0% do seu limite de 100.000. Seu limite será renovado em 1 de dezembro de 2026.",
		}},
		{"pt", 100, 105_040, 100_000, Message{
			"⚠️ Limite de tokens de IA atingido",
			"Olá, Ana Núñez! Você usou 105.040 tokens de IA neste período, 105,0% do seu limite de 100.000. A IA não estará disponível para você até 1 de dezembro de 2026, quando seu limite será renovado.",
		}},
		{"pt", 150, 151_999, 100_000, Message{
			"⚠️ Limite de tokens de IA ultrapassado: 150%",
			"Olá, Ana Núñez! Você usou 151.999 tokens de IA neste período, 151,9% do seu limite de 100.000. A IA não estará disponível para você até 1 de dezembro de 2026, quando seu limite será renovado.",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.want.Title, func(t *testing.T) {
			t.Parallel()
			got := render(Notice{
				FullName: "Ana Núñez", Language: &tt.language, Threshold: tt.threshold,
				TokensUsed: tt.used, TokenLimit: tt.limit, PeriodEnd: december(),
			}, Spanish)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestRenderTitles(t *testing.T) {
	t.Parallel()
	tests := []struct {
		threshold int
		used      int64 // of 1,000
		want      string
	}{
		{1, 10, "📊 1% of AI tokens used"},
		{50, 799, "📊 50% of AI tokens used"},
		{89, 899, "📊 89% of AI tokens used"},
		{99, 999, "⚡ 99% of AI tokens used"},
		{80, 1_000, "⚠️ AI token limit reached"}, // 80 is the highest threshold there is
		{100, 1_000, "⚠️ AI token limit reached"},
		{101, 1_010, "⚠️ AI token limit exceeded: 101%"},
		{1000, 10_000, "⚠️ AI token limit exceeded: 1,000%"},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			t.Parallel()
			got := render(Notice{Threshold: tt.threshold, TokensUsed: tt.used, TokenLimit: 1_000, PeriodEnd: december()}, English)
			assert.Equal(t, tt.want, got.Title)
			assert.Equal(t, tt.used >= 1_000, strings.Contains(got.Body, "not be available"), got.Body)
		})
	}
}

func TestRenderChoosesLanguage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		language *string
		fallback Language
		want     string
	}{
		{"the user's", new("pt-BR"), English, "Olá! "},
		{"the user's, untidy", new(" EN_us"), Spanish, "Hello, "},
		{"none", nil, Portuguese, "Olá! "},
		{"empty", new(""), English, "Hello, "},
		{"another", new("fr-CA"), English, "Hello, "},
		{"no fallback", nil, "", "Hola: "},
		{"another, and another fallback", new("fr"), "de", "Hola: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := render(Notice{Language: tt.language, Threshold: 80, TokensUsed: 80, TokenLimit: 100, PeriodEnd: december()}, tt.fallback)
			assert.True(t, strings.HasPrefix(got.Body, tt.want), got.Body)
		})
	}
}

func TestRenderCounts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name        string
		used, limit int64
		es, en, pt  string
	}{
		{"79.99", 7_999, 10_000, " 7.999 tokens de IA en este período, el 79,9% de tu límite de 10.000.", " 7,999 AI tokens this period, 79.9% of your limit of 10,000.", " 7.999 tokens de IA neste período, 79,9% do seu limite de 10.000."},
		{"99.99", 9_999, 10_000, " el 99,9% ", " 99.9% ", " 99,9% "},
		{"100", 10_000, 10_000, " el 100,0% ", " 100.0% ", " 100,0% "},
		{"105.04", 10_504, 10_000, " el 105,0% ", " 105.0% ", " 105,0% "},
		{"one token", 1, 1, " 1 token de IA en este período, el 100,0% de tu límite de 1.", " 1 AI token this period, 100.0% of your limit of 1.", " 1 token de IA neste período, 100,0% do seu limite de 1."},
		{"grouped per cent", 12_345, 1_000, " el 1.234,5% ", " 1,234.5% ", " 1.234,5% "},
		{"largest", math.MaxInt64 - 1, math.MaxInt64, " 9.223.372.036.854.775.806 tokens de IA en este período, el 99,9% de tu límite de 9.223.372.036.854.775.807.", " 9,223,372,036,854,775,806 AI tokens this period, 99.9% of your limit of 9,223,372,036,854,775,807.", " 9.223.372.036.854.775.806 tokens de IA neste período, 99,9% do seu limite de 9.223.372.036.854.775.807."},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for fallback, want := range map[Language]string{Spanish: tt.es, English: tt.en, Portuguese: tt.pt} {
				got := render(Notice{Threshold: 1, TokensUsed: tt.used, TokenLimit: tt.limit, PeriodEnd: december()}, fallback)
				assert.Contains(t, got.Body, want)
			}
		})
	}
}

func TestRenderResetDate(t *testing.T) {
	t.Parallel()
	santiago, err := time.LoadLocation("America/Santiago")
	require.NoError(t, err)
	kolkata, err := time.LoadLocation("Asia/Kolkata")
	require.NoError(t, err)
	end := time.Date(2026, time.March, 1, 1, 0, 0, 0, time.UTC)
	tests := []struct {
		name       string
		end        time.Time
		zone       *time.Location
		es, en, pt string
	}{
		{"no zone", end.In(santiago), nil, "el 1 de marzo de 2026", "March 1, 2026", "em 1 de março de 2026"},
		{"the day before in the west", end, santiago, "el 28 de febrero de 2026", "February 28, 2026", "em 28 de fevereiro de 2026"},
		{"the same day in the east", end, kolkata, "el 1 de marzo de 2026", "March 1, 2026", "em 1 de março de 2026"},
		// On 6 September 2026 Santiago has no midnight.
		{"no midnight", time.Date(2026, time.September, 6, 4, 0, 0, 0, time.UTC), santiago, "el 6 de septiembre de 2026", "September 6, 2026", "em 6 de setembro de 2026"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for fallback, want := range map[Language]string{Spanish: tt.es, English: tt.en, Portuguese: tt.pt} {
				got := render(Notice{Threshold: 80, TokensUsed: 80, TokenLimit: 100, PeriodEnd: tt.end, Zone: tt.zone}, fallback)
				assert.Contains(t, got.Body, want+".")
			}
		})
	}
}

func TestRenderGreeting(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, fullName, want string
	}{
		{"plain", "Ana", "Hello Ana, you "},
		{"empty", "", "Hello, you "},
		{"blank", " \t\u00a0\u3000\n", "Hello, you "},
		{"nothing to see", "\u200b\u200d\u202e\u0301", "Hello, you "},
		{"white space", "  Ana \u00a0\t  Núñez  ", "Hello Ana Núñez, you "},
		{"lines", "Ana\r\nSystem: you\u2028have\u0085won", "Hello Ana System: you have won, you "},
		{"control characters", "A\x00n\x1b[31ma\x7f", "Hello A n [31ma, you "},
		{"broken UTF-8", "Ana\xff\xc3(Núñez)", "Hello Ana (Núñez), you "},
		{"family of emoji", "Ana 👩‍👩‍👧 🇨🇱", "Hello Ana 👩‍👩‍👧 🇨🇱, you "},
		{"right to left", "فاطمة الزهراء", "Hello فاطمة الزهراء, you "},
		{"non-joiner within a word", "می\u200cخواهم", "Hello می\u200cخواهم, you "},
		{"direction overrides", "\u202eanA\u202c \u2066x\u2069\u200f", "Hello anA x, you "},
		{"combining marks", "Zoe\u0308", "Hello Zoe\u0308, you "},
		{"verbs", "%s %d %[1]d %!", "Hello %s %d %[1]d %!, you "},
		{"placeholders", "{{.}} {{recipient_name}} ${HOME}", "Hello {{.}} {{recipient_name}} ${HOME}, you "},
		{"markup", "<b>&amp;</b>", "Hello <b>&amp;</b>, you "},
		{"as long as may be", strings.Repeat("ñ", 100), "Hello " + strings.Repeat("ñ", 100) + ", you "},
		{"as long as may be, and blanks", strings.Repeat("ñ", 100) + "  ", "Hello " + strings.Repeat("ñ", 100) + ", you "},
		{"one too long", strings.Repeat("ñ", 101), "Hello " + strings.Repeat("ñ", 99) + "…, you "},
		{"cut after a space", strings.Repeat("ñ", 98) + " ñññ", "Hello " + strings.Repeat("ñ", 98) + "…, you "},
		{"cut after a joiner", strings.Repeat("ñ", 97) + "👩‍👧 ", "Hello " + strings.Repeat("ñ", 97) + "👩‍👧, you "},
		{"cut within a family", strings.Repeat("ñ", 97) + "👩‍👧👧", "Hello " + strings.Repeat("ñ", 97) + "👩…, you "},
		{"a megabyte", strings.Repeat("x", 1<<20), "Hello " + strings.Repeat("x", 99) + "…, you "},
		{"a megabyte of nothing", strings.Repeat("\x00", 1<<20), "Hello, you "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := render(Notice{FullName: tt.fullName, Threshold: 80, TokensUsed: 80, TokenLimit: 100, PeriodEnd: december()}, English)
			greeting, _, _ := strings.Cut(got.Body, "have used")
			assert.Equal(t, tt.want, greeting)
		})
	}
}

func TestRenderGreetingWithoutName(t *testing.T) {
	t.Parallel()
	for fallback, want := range map[Language]string{
		Spanish:    "Hola: has usado ",
		English:    "Hello, you have used ",
		Portuguese: "Olá! Você usou ",
	} {
		got := render(Notice{Threshold: 80, TokensUsed: 80, TokenLimit: 100, PeriodEnd: december()}, fallback)
		assert.True(t, strings.HasPrefix(got.Body, want), got.Body)
	}
}

func TestPercentTenths(t *testing.T) {
	t.Parallel()
	tests := []struct {
		used, limit, want int64
	}{
		{0, 100, 0},
		{-1, 100, 0},
		{math.MinInt64, math.MaxInt64, 0},
		{5, 0, 0},
		{5, -1, 0},
		{1, 1_001, 0},
		{7_950, 10_000, 795},
		{7_999, 10_000, 799},
		{8_000, 10_000, 800},
		{9_999, 10_000, 999},
		{10_000, 10_000, 1_000},
		{10_504, 10_000, 1_050},
		{math.MaxInt64 - 1, math.MaxInt64, 999},
		{math.MaxInt64, math.MaxInt64, 1_000},
		{math.MaxInt64, 1_000, math.MaxInt64},
		{math.MaxInt64, 1_001, 9_214_157_878_975_800_006},
		{math.MaxInt64, 500, math.MaxInt64},
		{math.MaxInt64, 1, math.MaxInt64},
		{18_446_744_073_709_552, 1, math.MaxInt64}, // the product's upper word equals the limit
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, PercentTenths(tt.used, tt.limit), "%d of %d", tt.used, tt.limit)
	}
}

func FuzzPercentTenths(f *testing.F) {
	f.Add(int64(7_999), int64(10_000))
	f.Add(int64(math.MaxInt64), int64(1_001))
	f.Fuzz(func(t *testing.T, used, limit int64) {
		got := PercentTenths(used, limit)
		if used <= 0 || limit <= 0 {
			require.Zero(t, got)
			return
		}
		want := new(big.Int).Mul(big.NewInt(used), big.NewInt(1_000))
		want.Quo(want, big.NewInt(limit))
		if !want.IsInt64() {
			want.SetInt64(math.MaxInt64)
		}
		require.Equal(t, want.Int64(), got)
	})
}

func TestParseLanguage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		tag  string
		want Language
		ok   bool
	}{
		{"es", Spanish, true},
		{"en", English, true},
		{"pt", Portuguese, true},
		{"pt-BR", Portuguese, true},
		{"EN_us", English, true},
		{" es ", Spanish, true},
		{"es-419", Spanish, true},
		{"ES_cl.UTF-8", Spanish, true},
		{"\tPT\n", Portuguese, true},
		{"", "", false},
		{" ", "", false},
		{"-es", "", false},
		{"_", "", false},
		{"esp", "", false},
		{"e", "", false},
		{"fr", "", false},
		{"fr-es", "", false},
		{"e s", "", false},
		{"español", "", false},
		{"e\u017f", "", false}, // a long s folds to s
		{"\xff", "", false},
	}
	for _, tt := range tests {
		got, ok := ParseLanguage(tt.tag)
		assert.Equal(t, tt.want, got, "%q", tt.tag)
		assert.Equal(t, tt.ok, ok, "%q", tt.tag)
	}
}

func FuzzParseLanguage(f *testing.F) {
	for _, tag := range []string{"", "es", "pt-BR", "EN_us", " es ", "fr", "\xff-\xff"} {
		f.Add(tag)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		lang, ok := ParseLanguage(tag)
		require.Equal(t, ok, lang == Spanish || lang == English || lang == Portuguese)
		if !ok {
			require.Empty(t, lang)
			return
		}
		subtag := strings.TrimSpace(tag)[:2]
		require.True(t, strings.EqualFold(subtag, string(lang)))
		again, ok := ParseLanguage(string(lang) + "-" + tag)
		require.True(t, ok)
		require.Equal(t, lang, again)
	})
}

func FuzzRender(f *testing.F) {
	f.Add("Ana", "pt-BR", "es", 80, int64(80), int64(100), int64(1_796_083_200), -3*3600)
	f.Add("%s{{.}}\x00\u202e", "", "", 1000, int64(math.MaxInt64), int64(1), int64(math.MaxInt64), 0)
	f.Add("\xff\u200d", "xx", "yy", math.MinInt, int64(math.MinInt64), int64(0), int64(math.MinInt64), math.MaxInt32)
	f.Fuzz(func(t *testing.T, name, lang, fallback string, threshold int, used, limit, end int64, offset int) {
		n := Notice{
			FullName: name, Language: &lang, Threshold: threshold, TokensUsed: used, TokenLimit: limit,
			PeriodEnd: time.Unix(end, 0), Zone: time.FixedZone("", offset),
		}
		got := render(n, Language(fallback))
		require.LessOrEqual(t, utf8.RuneCountInString(got.Title), 255)
		require.LessOrEqual(t, utf8.RuneCountInString(got.Body), 500)
		for _, text := range []string{got.Title, got.Body} {
			require.NotEmpty(t, text)
			require.True(t, utf8.ValidString(text))
			require.Negative(t, strings.IndexFunc(text, unicode.IsControl))
		}
		require.NotContains(t, got.Title, "%!", "a format and its arguments differ")
		require.Equal(t, got, render(n, Language(fallback)))
	})
}
