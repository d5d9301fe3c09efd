package main

import "time"

// size says how much of everything a run takes.
type size struct {
	claims, claimRuns int // of the race against a bare loop

	writeClaims int
	steady      time.Duration // window without changes

	scaleClaims int

	rotation time.Duration // of each of the two series

	deadClaims, deadRuns int
}

var full = size{
	claims: 200, claimRuns: 3,
	writeClaims: 50, steady: time.Minute,
	scaleClaims: 5000,
	rotation:    time.Minute,
	deadClaims:  100, deadRuns: 3,
}

var quick = size{
	claims: 4, claimRuns: 1,
	writeClaims: 3, steady: 3 * time.Second,
	scaleClaims: 20,
	rotation:    8 * time.Second,
	deadClaims:  5, deadRuns: 1,
}
