# SPDX-License-Identifier: Apache-2.0
"""devmem-loader bindings where nothing can be bound; with NICs, modules and a daemon: tests/guest/e2e/bindings_test.py."""
import harness


class BindingsTest(harness.TestCase):
    def test_nothing_is_bound_here(self):
        run = self.verb("bindings", "--journal-folder", self.folder("journals"), "--json")
        self.assertEqual(run.status, 0, run.text)
        self.assertEqual(sorted(run.summary), ["bindings", "module_loaded", "notes", "unread"])
        if run.summary["bindings"]:
            self.skipTest(f"this machine has something bound: {run.summary}")
        run = self.verb("bindings")  # where no daemon was there is no folder, and that is no fault
        self.assertEqual(run.status, 0, run.text)
        self.assertRegex(run.stdout, "(?i)nothing.* bound")

    def test_what_is_no_journal_is_said(self):
        journals = self.folder("journals")
        (journals / "rx-1-2-3-4-5.json").write_text("{", encoding="ascii")
        run = self.verb("bindings", "--journal-folder", journals, "--output", "json")
        self.assertEqual(run.status, 0, run.text)
        self.assertTrue(any("rx-1-2-3-4-5.json" in line for line in run.summary["unread"]), run.summary)
        self.assertIn("rx-1-2-3-4-5.json", self.verb("bindings", "--journal-folder", journals).stdout)
        self.assertTrue((journals / "rx-1-2-3-4-5.json").exists(), "it only looks")

    def test_a_folder_that_is_none(self):
        none = self.work / "none"
        self.assert_failed(self.verb("bindings", "--journal-folder", none, "--json"), str(none), "no such file", code="NOT_FOUND")
        self.assertFalse(none.exists(), "it only looks")
        none.write_text("", encoding="ascii")
        self.assert_failed(self.verb("bindings", "--journal-folder", none, "--json"), str(none), "not a directory",
                           code="FAILED_PRECONDITION")

    def test_bad_command_lines(self):
        for words, said in ((["--jsn"], "did you mean --json"), (["dms0"], "unexpected argument 'dms0'")):
            run = self.verb("bindings", *words)
            self.assertEqual(run.status, 2, run.text)
            self.assertIn(said, run.text)
        run = self.verb("bindngs")
        self.assertEqual(run.status, 2, run.text)
        self.assertIn("did you mean bindings", run.text)
