//! The macro that makes everything that the library knows of its maskers, or of its scorers, from one table.

/// Makes an enum of burn modules from a table. A row is the module, the names of its configurations, and the function of
/// each configuration that builds it:
///
/// ```text
/// /// What it does.
/// Module(Module): "name" => ModuleConfig::init, "another_name" => AnotherConfig::init;
/// ```
///
/// A row `Module(Module<B, BuiltInScorer<B>>) over scorer: ...` is a module over a scorer, which is in its field `scorer`.
///
/// Binary records store the place of a row in the table, so a new row goes to the end. The first name of a row is also
/// its kind in error messages about records.
///
/// Besides the enum, its `From` for each module and its display, the macro makes:
///
/// - `NAMES`: all names in alphabetical order.
/// - `built`: builds the module of a configuration.
/// - `part`: the module as an object of the trait.
/// - `name_in_record`: the kind of the module that a record belongs to.
/// - `registry`: the builders of all names, to which a program can add its own.
macro_rules! table {
    (
        part: $part:literal, trait: $Part:ident, configuration: $Config:ident, record: $Record:ident;

        $(#[$about:meta])*
        pub enum $Parts:ident {
            $(
                $(#[$doc:meta])*
                $Module:ident($type:ty) $(over $scorer:ident)?: $($name:literal => $config:ident::$build:ident),+;
            )+
        }
    ) => {
        $(#[$about])*
        #[derive(burn::module::Module, Debug)]
        #[module(custom_display)]
        pub enum $Parts<B: burn::tensor::backend::Backend> {
            $(
                $(#[$doc])*
                ///
                /// In configurations:
                $(#[doc = concat!("- `", $name, "`")])+
                $Module($type),
            )+
        }

        /// The names in configurations, in alphabetical order.
        pub(super) static NAMES: std::sync::LazyLock<Vec<&'static str>> = std::sync::LazyLock::new(|| {
            let mut names = vec![$($($name),+),+];
            names.sort_unstable();
            names
        });

        impl<B: burn::tensor::backend::Backend> $Parts<B> {
            /// Builds the module of a configuration. `None` if no row has its name.
            fn built(
                named: &$crate::config::NamedConfig,
                context: &$crate::scorer::Context<B>,
            ) -> Result<Option<Self>, $crate::config::ConfigError> {
                Ok(Some(match named.name.as_str() {
                    $($(
                        $name => Self::$Module($config::$build(&$crate::config::fields::<$config>(named)?, context)?),
                    )+)+
                    _ => return Ok(None),
                }))
            }

            fn part(&self) -> &dyn $Part<B> {
                match self {
                    $(Self::$Module(part) => part,)+
                }
            }
        }

        /// The first name of the row that a record is of, and `over` with the kind of its scorer if it has one.
        fn name_in_record<B: burn::tensor::backend::Backend>(record: &$Record<B>) -> String {
            match record {
                $(
                    $Record::$Module(_record) => {
                        let name = [$($name),+][0].to_owned();
                        $(let name = format!("{name} over {}", $crate::scorer::kind_of_record(&_record.$scorer));)?
                        name
                    }
                )+
            }
        }

        /// The builders of all names.
        pub(crate) fn registry<B: burn::tensor::backend::Backend>()
        -> $crate::config::Registry<$crate::scorer::Context<B>, dyn $Part<B>> {
            let mut registry = $crate::config::Registry::<_, dyn $Part<B>>::new($part);
            $($(
                registry.insert($name, |named, context| {
                    let config = $crate::config::fields::<$config>(named)?;
                    Ok(Box::new($Config::<B>::init(&config, context)?))
                });
            )+)+
            registry
        }

        $(
            impl<B: burn::tensor::backend::Backend> From<$type> for $Parts<B> {
                fn from(part: $type) -> Self {
                    Self::$Module(part)
                }
            }
        )+

        impl<B: burn::tensor::backend::Backend> burn::module::ModuleDisplay for $Parts<B> {
            fn custom_content(&self, content: burn::module::Content) -> Option<burn::module::Content> {
                match self {
                    $(Self::$Module(part) => content.add_single(part),)+
                }
                .optional()
            }
        }
    };
}

pub(crate) use table;
