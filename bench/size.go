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

	proxyTurns     int
	proxyPairs     int           // of pgbench: many and short, so that what else runs meets both sides
	proxyRun       time.Duration // of pgbench, in whole seconds
	proxyRotations int           // in all turns together
	proxyIdle      time.Duration // until memory is read

	orgs, hanging int // provisioned at once
	changes       int // of composites
	warehouses    int // that the API knows of
	asked         time.Duration
}

var full = size{
	claims: 200, claimRuns: 3,
	writeClaims: 50, steady: time.Minute,
	scaleClaims: 5000,
	rotation:    time.Minute,
	deadClaims:  100, deadRuns: 3,
	proxyTurns: 5, proxyPairs: 15, proxyRun: 2 * time.Second, proxyRotations: 100, proxyIdle: 5 * time.Second,
	orgs: 1000, hanging: 10, changes: 500, warehouses: 10_000, asked: 10 * time.Second,
}

var quick = size{
	claims: 4, claimRuns: 1,
	writeClaims: 3, steady: 3 * time.Second,
	scaleClaims: 20,
	rotation:    8 * time.Second,
	deadClaims:  5, deadRuns: 1,
	proxyTurns: 1, proxyPairs: 1, proxyRun: time.Second, proxyRotations: 3, proxyIdle: time.Second,
	orgs: 20, hanging: 2, changes: 20, warehouses: 50, asked: time.Second,
}
