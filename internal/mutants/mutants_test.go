package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"tokenalert/internal/module"
)

func TestMutantsApply(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			root, err := module.Root(t.Context())
			require.NoError(t, err)
			_, err = m.overlay(root, t.TempDir())
			require.NoError(t, err)
		})
	}
}
