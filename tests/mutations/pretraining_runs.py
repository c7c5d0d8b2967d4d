"""Mistakes in what keeps a run of pre-training safe: reader, checkpoints, schedule, records, codes."""

from . import Mutation

CHECKPOINTING = "farl_hf/pretraining/checkpointing.py"
LOOP = "farl_hf/pretraining/loop.py"
SAMPLES = "farl_hf/pretraining/samples.py"
SHARDS = "farl_hf/pretraining/shards.py"
STREAM = "farl_hf/pretraining/stream.py"

STOP_AND_GO = "tests/pretraining/test_training_checkpoints.py::test_"
FAULTS = "tests/pretraining/test_faults.py::test_"
READER = "tests/pretraining/test_stream.py::test_"
CODEBOOK = "tests/pretraining/test_image_codebook.py::test_"

MUTATIONS = [
    # Going on from an older or a damaged checkpoint
    Mutation(
        CHECKPOINTING,
        "newer.rename(aside)",
        "_remove(newer)",
        (f"{STOP_AND_GO}going_on_from_an_older_checkpoint_destroys_none",),
    ),
    Mutation(
        CHECKPOINTING,
        "if _checksum(checkpoint / name) != checksum:",
        "if False:",
        (f"{STOP_AND_GO}a_damaged_checkpoint_gives_way_to_the_one_before",),
    ),
    Mutation(
        CHECKPOINTING,
        "if self.keep_steps is None or step_of(path) % self.keep_steps != 0",
        "if True",
        (f"{STOP_AND_GO}checkpoints_open_as_what_they_are_and_are_kept",),
    ),
    # Each shard is read by one stream, and samples are shared out
    Mutation(
        STREAM,
        "own = order[lane::num_lanes]",
        "own = order",
        (f"{READER}uneven_shards_are_read_once_and_used_to_the_end",),
    ),
    Mutation(STREAM, "own = own[:share]", "own = own", (f"{READER}uneven_shards_are_read_once_and_used_to_the_end",)),
    Mutation(
        STREAM,
        'random.Random(f"{self.seed}/{epoch}").shuffle(order)',
        "pass",
        (f"{READER}each_sample_once_per_epoch_in_a_new_order",),
    ),
    # Numbers that are not finite
    Mutation(
        "farl_hf/pretraining/stability.py",
        "if math.isfinite(loss) and all(map(math.isfinite, metrics.values())):",
        "if math.isfinite(loss):",
        (f"{STOP_AND_GO}gradients_that_are_not_finite",),
    ),
    Mutation(
        LOOP,
        "if usable or accelerator.scaler",
        "if True or accelerator.scaler",
        (f"{STOP_AND_GO}gradients_that_are_not_finite",),
    ),
    Mutation(CHECKPOINTING, "not math.isfinite(value)", "False", (f"{STOP_AND_GO}gradients_that_are_not_finite",)),
    # Schedules of unknown length
    Mutation(
        "farl_hf/pretraining/schedule.py",
        "if unknown:",
        "if False:",
        (f"{STOP_AND_GO}what_cannot_be_counted_is_asked_for",),
    ),
    # A missing shard
    Mutation(
        "farl_hf/pretraining/fault_account.py",
        "self.limit * shards * max(1, passes)",
        "0",
        (f"{STOP_AND_GO}a_missing_shard_of_four_is_no_end",),
    ),
    # Input that ended whole runs
    Mutation(
        SAMPLES,
        "except (ValueError, RecursionError) as",
        "except ValueError as",
        (f"{FAULTS}deep_json_and_numbers_that_overflow",),
    ),
    Mutation(SHARDS, "if not 0 <= size <= _LARGEST_MEMBER:", "if False:", (f"{FAULTS}sizes_that_cannot_be",)),
    Mutation(
        SHARDS, "return [_value(scalar) for scalar in column]", "raise", (f"{FAULTS}parquet_strings_that_are_not_utf8",)
    ),
    Mutation(
        SAMPLES,
        "except Exception as error:  # numpy",
        "except OSError as error:  # numpy",
        (f"{FAULTS}stored_codes_that_cannot_be_read",),
    ),
    Mutation(
        "farl_hf/pretraining/image_views.py",
        "except (TypeError, ValueError, LookupError, ArithmeticError)",
        "except (TypeError, LookupError)",
        (f"{FAULTS}deep_json_and_numbers_that_overflow",),
    ),
    Mutation(SHARDS, "if attempt == _ATTEMPTS:", "if True:", (f"{FAULTS}a_connection_that_breaks_midway",)),
    Mutation(
        SHARDS,
        'except OSError as error:\n        raise ShardError("missing_shard"',
        'except FileNotFoundError as error:\n        raise ShardError("missing_shard"',
        (f"{FAULTS}a_folder_named_as_a_shard",),
    ),
    Mutation(
        "farl_hf/pretraining/probe.py",
        "and self._is_readable(path)",
        "",
        (f"{FAULTS}a_corrupt_probe_image_is_left_out",),
    ),
    # Input that was lost or misused without a word
    Mutation(
        SHARDS,
        "if zeros == 1 or (zeros and start % _TAR_RECORD):",
        "if False:",
        (f"{FAULTS}zeros_inside_a_tar_cost_what_they_cover",),
    ),
    Mutation(
        SHARDS,
        "            zeros += 1\n            continue",
        "            break",
        (f"{FAULTS}appended_tars_are_read_to_the_end",),
    ),
    Mutation(
        SHARDS, "sample.key != key or kind in found", "sample.key != key", (f"{FAULTS}one_key_twice_is_two_samples",)
    ),
    Mutation(
        SHARDS,
        'if base.startswith("."):  # macOS',
        'if base == ".":  # macOS',
        (f"{FAULTS}macos_attributes_are_no_samples",),
    ),
    Mutation(
        SAMPLES,
        "return caption.decode() if isinstance(caption, bytes) else caption.encode().decode()",
        'return caption.decode(errors="replace") if isinstance(caption, bytes) else caption',
        (f"{FAULTS}captions_that_are_no_text_and_half_images",),
    ),
    Mutation(
        "farl_hf/pretraining/image_views.py",
        "data.endswith(bytes(64))",
        "False",
        (f"{FAULTS}captions_that_are_no_text_and_half_images",),
    ),
    # Streams that end early, the list of shards, moved shards
    Mutation(
        STREAM,
        "if max(counts.values()) > share:",
        "if False:",
        (f"{READER}uneven_shards_are_read_once_and_used_to_the_end",),
    ),
    Mutation(
        STREAM,
        "self.stream = dataclasses.replace(self.stream, shards=shards)",
        "pass",
        (f"{READER}the_list_of_shards_is_part_of_the_position",),
    ),
    # Restarts
    Mutation(
        LOOP, "if not isinstance(earlier, dict):", "if False:", (f"{STOP_AND_GO}first_tries_that_failed_block_nothing",)
    ),
    Mutation(
        LOOP,
        'if not checkpoints and not (output_dir / "summary.json").exists():',
        "if False:",
        (f"{STOP_AND_GO}first_tries_that_failed_block_nothing",),
    ),
    Mutation(
        LOOP, '"contrastive_chunk_size",\n', "\n", (f"{STOP_AND_GO}other_numbers_of_workers_and_of_samples_at_a_time",)
    ),
    Mutation(
        LOOP, '"train_shards", "max', '"max', (f"{STOP_AND_GO}other_numbers_of_workers_and_of_samples_at_a_time",)
    ),
    # Records
    Mutation(LOOP, '"records": self.records,', "", (f"{STOP_AND_GO}records_are_those_of_an_unbroken_run",)),
    Mutation(
        "farl_hf/pretraining/records.py",
        '"purge_step": step + 1',
        '"purge_step": None',
        (f"{STOP_AND_GO}records_are_those_of_an_unbroken_run",),
    ),
    Mutation(
        "farl_hf/pretraining/fault_account.py",
        "os.truncate(self.path, min(self._length, self.path.stat().st_size))",
        "pass",
        (f"{STOP_AND_GO}names_behind_the_checkpoint_are_cut_off",),
    ),
    Mutation(
        "farl_hf/pretraining/records.py",
        "if self.accelerator.is_main_process:",
        "if True:",
        (f"{STOP_AND_GO}only_the_main_process_writes_lines",),
    ),
    # The global batch
    Mutation(
        "farl_hf/pretraining/configuration.py",
        "if steps * batch != self.global_batch_size:",
        "if False:",
        (f"{STOP_AND_GO}the_global_batch_is_met_or_refused",),
    ),
    Mutation(
        "farl_hf/pretraining/configuration.py",
        "math.sqrt(global_batch_size / _PAPER_BATCH)",
        "1.0",
        (f"{STOP_AND_GO}the_global_batch_is_met_or_refused",),
    ),
    Mutation(STREAM, "min(stream.open_shards, len(stream.shards))", "1", (f"{READER}a_batch_mixes_open_shards",)),
    # Codes
    Mutation(
        "farl_hf/pretraining/objective.py",
        "with accelerator.autocast():",
        "with nullcontext():",
        (f"{CODEBOOK}dalle_runs_in_the_precision_of_the_step",),
    ),
    Mutation(
        LOOP,
        "self.codebook.compile()",
        "pass",
        (f"{CODEBOOK}dalle_is_compiled_with_the_rest_and_counts_in_the_share_of_the_peak",),
    ),
    Mutation(
        LOOP,
        "codebook_flops(self.codebook) + ",
        "",
        (f"{CODEBOOK}dalle_is_compiled_with_the_rest_and_counts_in_the_share_of_the_peak",),
    ),
    # Checkpoints are whole models
    Mutation(
        CHECKPOINTING,
        'name.removeprefix("model."): value for name, value in gathered',
        "name: value for name, value in gathered",
        (f"{STOP_AND_GO}checkpoints_open_as_what_they_are_and_are_kept",),
    ),
]
