package main

import (
	"math"
	"slices"
	"time"
)

// median is the middle of figures, the lower one of two; NaN of none.
func median(figures []float64) float64 { return percentile(figures, 50) }

func least(figures []float64) float64 { return percentile(figures, 0) }

func most(figures []float64) float64 { return percentile(figures, 100) }

// percentile is the smallest figure that p in a hundred are at or below.
func percentile(figures []float64, p float64) float64 {
	if len(figures) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(figures))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func milliseconds(durations []time.Duration) []float64 {
	figures := make([]float64, len(durations))
	for i, d := range durations {
		figures[i] = float64(d) / float64(time.Millisecond)
	}
	return figures
}
