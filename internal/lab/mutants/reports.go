package main

// reportMutants are those of what is read of the books.
var reportMutants = []mutant{
	{
		name: "hours behind their day", pkg: "sql/pgstore",
		guard: "An hour counts on the day in which it starts: else the first of a day counts on the day before.",
		edits: []edit{{"sql/pgstore/usage.go", "t.Add(time.Hour - time.Nanosecond).Truncate(time.Hour)", "t.Add(time.Hour).Truncate(time.Hour)"}},
		tests: []string{"TestEveryHourBelongsToOneDayAndOneMonthInEveryZone"},
	},
	{
		name: "days that are shifted in silence", pkg: "sql/pgstore",
		guard: "A report says by how much its days are shifted, of each day that it has: else half an hour of a zone is missing, and nobody knows.",
		edits: []edit{{"sql/pgstore/usage.go", "if q.By == Day || q.By == Month {", "if q.By == Hour {"}},
		tests: []string{"TestMonthsOfUsageAreThoseOfTheZone"},
	},
	{
		name: "a part of an inflated body", pkg: "internal/httpapi",
		guard: "The bound of a body is of what it inflates to: else what is behind the bound is left out, and the answer says that all is recorded.",
		edits: []edit{{"internal/httpapi/body.go", "if int64(len(body)) > limit {\n\t\t\treturn nil, a.tooLarge()", "if int64(len(body)) > limit {\n\t\t\treturn body, nil"}},
		tests: []string{"TestTheBoundOfABodyIsOfWhatItInflatesTo"},
	},
	{
		name: "inflaters for nothing", pkg: "internal/httpapi",
		guard: "An inflater is counted in the memory for bodies: else many compressed bodies take more than all may.",
		edits: []edit{{"internal/httpapi/body.go", "a.takeMemory(in, w, r, inflaterBytes)", "a.takeMemory(in, w, r, 0)"}},
		tests: []string{"TestAnInflaterIsCountedInTheMemoryForBodies"},
	},
	{
		name: "streams that hold nothing", pkg: "internal/httpapi",
		guard: "A compressed body of which nothing is inflated is ended: else its blocks are read for as long as they come.",
		edits: []edit{{"internal/httpapi/gzip.go", "if f.came > 2*f.inflated+emptyBytes {", "if f.came < 0 {"}},
		tests: []string{"TestABodyThatIsNotTheGzipItPromisesIsRefused"},
	},
	{
		name: "what stands behind a stream", pkg: "internal/httpapi",
		guard: "What stands behind a compressed body is refused: else updates that were sent are left out, and the answer says that all are recorded.",
		edits: []edit{{"internal/httpapi/gzip.go", "f.err = errMembers", "f.err = io.EOF"}},
		tests: []string{"TestABodyThatIsNotTheGzipItPromisesIsRefused"},
	},
	{
		name: "a compressed part for the whole", pkg: "internal/httpapi",
		guard: "A compressed CSV that fails halfway gets no end: else a part of it looks whole.",
		edits: []edit{{"internal/httpapi/csv.go", "s.zip.Reset(io.Discard)", "s.zip.Close()"}},
		tests: []string{"TestACompressedCSVThatFailsHalfwayNeverLooksWhole"},
	},
	{
		name: "searches without a bound", pkg: "sql/pgstore",
		guard: "A search within names looks at a bounded number of them: else one over millions of keys holds a connection for seconds at each letter typed.",
		edits: []edit{{"sql/pgstore/findentities.go", "most := NamesLookedAt\n", "most := 100 * NamesLookedAt\n"}},
		tests: []string{"TestASearchLooksAtABoundedNumberOfNamesAndGoesOnFromThere"},
	},
	{
		name: "the rest of a bounded search", pkg: "sql/pgstore",
		guard: "A search that ends at its bound says where to go on: else what is behind it can't be found.",
		edits: []edit{{"sql/pgstore/findentities.go", "if looked == most && found.next == nil {", "if looked < 0 {"}},
		tests: []string{"TestASearchLooksAtABoundedNumberOfNamesAndGoesOnFromThere"},
	},
}
